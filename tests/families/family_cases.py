"""Every tiny checkpoint by its name."""

from __future__ import annotations

from tests.families import (
    family_cases_further,
    family_cases_hybrid,
    family_cases_latent,
    family_cases_llama,
    family_cases_more,
    family_cases_recent,
    family_cases_values,
    family_cases_world,
)
from tests.families.family import Case

CASES: dict[str, Case] = {
    name: case
    for module in (
        family_cases_llama,
        family_cases_more,
        family_cases_recent,
        family_cases_hybrid,
        family_cases_world,
        family_cases_latent,
        family_cases_further,
        family_cases_values,
    )
    for name, case in module.CASES.items()
}
