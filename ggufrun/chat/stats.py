"""What there is to tell of a conversation: how full and how fast it is, its tokens, and what was loaded."""

from __future__ import annotations

from pathlib import Path

from ggufrun.chat.session import Session
from ggufrun.chat.store import Loaded


def figures(session: Session) -> tuple[str, ...]:
    """How full the context is, and what the last answer took."""
    lines = [f"context  {len(session.ids)} of {session.context.n_ctx} tokens, {question_count(len(session.past))}"]
    lines += [f"forgotten {line}" for line in dropped_note(session)]
    if session.last is not None:
        stats = session.last.stats
        decoded, speed = stats.decoded_prompt_tokens, stats.tokens_per_second
        reading = f", {decoded / stats.prompt_time:.1f} tokens/s" if stats.prompt_time > 0 else ""
        lines += [
            f"prompt   {decoded} of {stats.prompt_tokens} tokens decoded in {stats.prompt_time:.2f} s{reading}",
            f"answer   {stats.tokens} tokens in {stats.time:.2f} s, {speed:.1f} tokens/s ({stats.reason.value})",
        ]
        if session.speculation is not None:
            gain = f", {stats.speed_up:.2f} times as fast as without" if stats.speed_up else ""
            lines.append(
                f"guesses  {stats.accepted} of {stats.drafted} came true ({stats.acceptance:.0%}), "
                f"{stats.tokens_per_step:.2f} tokens a pass{gain}"
            )
        if session.negative is not None:
            lines.append(f"guidance away from the negative prompt, scale {session.negative.guidance.scale:g}")
    return tuple(lines)


def dropped_note(session: Session) -> tuple[str, ...]:
    """What the model does not see any more of a conversation that has outgrown its context."""
    trace = session.past[-1].rendered if session.past else None
    if trace is not None and trace.first:
        return (f"the first {question_count(trace.first)}, with the answers",)
    return (f"{session.forgotten} tokens of the oldest questions and answers",) if session.forgotten else ()


def describe(session: Session, ids: tuple[int, ...]) -> str:
    """Token ids with the text of each."""
    vocab = session.context.model.vocab
    return " ".join(f"{token}:{vocab.text(token)!r}" for token in ids)


def session_notes(path: Path, loaded: Loaded) -> tuple[str, ...]:
    """What to say of a session that was loaded."""
    ready = f", {loaded.tokens} tokens ready" if loaded.tokens else ""
    line = f"{path}: {question_count(loaded.turns)}{ready}"
    return (f"{line} ({loaded.note})" if loaded.note else line,)


def question_count(questions: int) -> str:
    """``1 question``, ``2 questions``."""
    return f"{questions} question" + ("s" if questions != 1 else "")
