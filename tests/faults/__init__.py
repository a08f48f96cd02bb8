"""What may happen to a job from outside, made to happen: signals, hostile pickles, full disks, files cut short.

``python -m tests.faults kill --rounds 100 --seed 1``; ``docs/reliability.md`` says what is promised and what was seen.
"""
