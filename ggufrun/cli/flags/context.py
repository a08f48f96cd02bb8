"""A model's context: its length, its cache, what it computes with, adapters on it, and how positions are stretched."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from ggufrun.cli.flags.option import option, switch
from ggufrun.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from ggufrun.engine.adapters import Adapter
    from ggufrun.engine.context import ContextParams
    from ggufrun.engine.rope import RopeParams


@dataclass(frozen=True)
class PositionFlags:
    """How positions are stretched beyond the length that a model was trained with."""

    SECTION: ClassVar[str] = "Longer contexts (RoPE, YaRN, NTK)"

    rope_scaling: Annotated[
        str | None,
        option("--rope-scaling", help="RoPE: method of stretching positions.", metavar="[none|linear|yarn]"),
    ] = None
    rope_scale: Annotated[
        float | None, option("--rope-scale", help="RoPE: factor by which the context is stretched.")
    ] = None
    rope_freq_base: Annotated[float | None, option("--rope-freq-base", help="RoPE: frequency base.")] = None
    rope_freq_scale: Annotated[
        float | None, option("--rope-freq-scale", help="RoPE: frequency scale, the inverse of --rope-scale.")
    ] = None
    yarn_orig_ctx: Annotated[
        int | None, option("--yarn-orig-ctx", help="YaRN: context that the model was trained with, in tokens.")
    ] = None
    yarn_ext_factor: Annotated[float | None, option("--yarn-ext-factor", help="YaRN: extrapolation factor.")] = None
    yarn_attn_factor: Annotated[
        float | None, option("--yarn-attn-factor", help="YaRN: factor on the magnitude of attention.")
    ] = None
    yarn_beta_slow: Annotated[
        float | None, option("--yarn-beta-slow", help="YaRN: bound for the correction of low frequencies (beta slow).")
    ] = None
    yarn_beta_fast: Annotated[
        float | None, option("--yarn-beta-fast", help="YaRN: bound for the correction of high frequencies (beta fast).")
    ] = None
    ntk_alpha: Annotated[
        str | None,
        option("--ntk-alpha", help="NTK: factor for a longer context; auto derives it from -c.", metavar="A|auto"),
    ] = None

    def params(self) -> RopeParams:
        """The engine's record. Raises UsageError."""
        from ggufrun.engine.rope import RopeParams

        scale, alpha = self.rope_freq_scale, None
        if self.rope_scale is not None:
            if scale is not None or self.rope_scale <= 0:
                hint = "give it a number above 0, and not --rope-freq-scale"
                raise UsageError(f"--rope-scale {self.rope_scale}", hint)
            scale = 1 / self.rope_scale
        if self.ntk_alpha is not None:
            try:
                alpha = 0.0 if self.ntk_alpha.lower() == "auto" else float(self.ntk_alpha) or -1.0
            except ValueError:
                raise UsageError(f"--ntk-alpha {self.ntk_alpha}", "give a number, or auto") from None
        return RopeParams(
            scaling=self.rope_scaling,
            freq_base=self.rope_freq_base,
            freq_scale=scale,
            yarn_orig_ctx=self.yarn_orig_ctx,
            yarn_ext_factor=self.yarn_ext_factor,
            yarn_attn_factor=self.yarn_attn_factor,
            yarn_beta_slow=self.yarn_beta_slow,
            yarn_beta_fast=self.yarn_beta_fast,
            ntk_alpha=alpha,
        )


@dataclass(frozen=True)
class AdapterFlags:
    """LoRA adapters on a model while it runs."""

    SECTION: ClassVar[str] = "Adapters"

    lora: Annotated[
        list[str] | None,
        option("--lora", help="LoRA adapter in GGUF, or several with commas; may be repeated.", metavar="FILE"),
    ] = None
    lora_scaled: Annotated[
        list[str] | None,
        option("--lora-scaled", help="LoRA adapter in GGUF with a scale; may be repeated.", metavar="FILE:SCALE"),
    ] = None

    def adapters(self) -> tuple[Adapter, ...]:
        """The engine's records, each file's header checked. Raises NotFoundError, UsageError or FormatError."""
        from ggufrun.engine.adapters import Adapter, scaled

        found = []
        for text in self.lora or ():
            # A comma may also stand in a name.
            names = [text] if Path(text).exists() else text.split(",")
            found += [Adapter(Path(name)) for name in names]
        for text in self.lora_scaled or ():
            found += scaled(text)
        for adapter in found:
            if adapter.path.is_dir():
                hint = f"make a GGUF of it: ggufrun convert BASE --lora {adapter.path} --lora-out FILE"
                raise NotFoundError(f"{adapter.path} is a folder, not a GGUF adapter", hint)
            if not adapter.path.is_file():
                raise NotFoundError(f"{adapter.path}: no such file", "give the path of a GGUF adapter")
            from ggufrun.checkpoint.gguf.header import read_header

            # An adapter says less about the model than a model does.
            read_header(adapter.path)
        return tuple(found)


@dataclass(frozen=True)
class ContextFlags:
    """The length of a context, its cache, and what it is computed with."""

    SECTION: ClassVar[str] = "Context and computation"

    ctx_size: Annotated[
        int | None,
        option("-c", "--ctx-size", help="Length of the context in tokens; 0 for all that the model has (4096)."),
    ] = None
    batch: Annotated[
        int | None, option("-b", "--batch-size", help="Largest number of prompt tokens in one call (2048).")
    ] = None
    ubatch: Annotated[
        int | None, option("-ub", "--ubatch-size", help="Largest number of prompt tokens computed at once (512).")
    ] = None
    threads: Annotated[
        int | None, option("-t", "--threads", help="Number of threads for generation (one per core).")
    ] = None
    threads_batch: Annotated[
        int | None, option("-tb", "--threads-batch", help="Number of threads for prompts (the value of -t).")
    ] = None
    flash_attention: Annotated[
        str | None, option("-fa", "--flash-attn", help="Use flash attention (auto).", metavar="[on|off|auto]")
    ] = None
    cache_k: Annotated[
        str | None, option("-ctk", "--cache-type-k", help="Data type of the cached keys (f16).", metavar="TYPE")
    ] = None
    cache_v: Annotated[
        str | None, option("-ctv", "--cache-type-v", help="Data type of the cached values (f16).", metavar="TYPE")
    ] = None
    swa_full: Annotated[
        bool,
        option("--swa-full", help="Cache everything with sliding-window attention: more memory, faster /undo."),
    ] = False

    def params(self, positions: PositionFlags, adapters: AdapterFlags) -> ContextParams:
        """The engine's record; what was not given keeps the engine's default. Raises UsageError, NotFoundError."""
        from ggufrun.engine.context import ContextParams

        given = {
            "n_ctx": self.ctx_size,
            "n_batch": self.batch,
            "n_ubatch": self.ubatch,
            # llama.cpp's own default is -1: as many as the machine has.
            "threads": None if self.threads in (-1, 0) else self.threads,
            "threads_batch": None if self.threads_batch in (-1, 0) else self.threads_batch,
            "flash_attention": switch("-fa", self.flash_attention),
            "type_k": self.cache_k,
            "type_v": self.cache_v,
            "swa_full": self.swa_full,
            "rope": positions.params(),
            "adapters": adapters.adapters(),
        }
        given = {name: value for name, value in given.items() if value is not None}
        return ContextParams(**given)  # type: ignore[arg-type]
