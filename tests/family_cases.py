"""Every tiny checkpoint by its name."""

from __future__ import annotations

from tests import family_cases_hybrid, family_cases_llama, family_cases_more, family_cases_recent
from tests.families import Case

CASES: dict[str, Case] = (
    family_cases_llama.CASES | family_cases_more.CASES | family_cases_recent.CASES | family_cases_hybrid.CASES
)
