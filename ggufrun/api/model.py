"""``ggufrun.load``: a model in memory, to talk to from Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, overload

from ggufrun.api.answers import Answer, Stream
from ggufrun.api.conversation import Conversation
from ggufrun.api.messages import parse
from ggufrun.api.options import answer_options, path_of
from ggufrun.api.speaker import Speaker
from ggufrun.chat.formats.choose_format import Choice, FormatOptions, choose, recommended
from ggufrun.chat.formats.plain import PlainPrompt
from ggufrun.chat.replay import replay
from ggufrun.engine.adapters import Adapter
from ggufrun.engine.context import Context, ContextParams
from ggufrun.engine.draft import DraftParams
from ggufrun.engine.model import Model as EngineModel
from ggufrun.engine.model import ModelParams
from ggufrun.engine.placement import memory_check
from ggufrun.engine.placement.offload import Placement
from ggufrun.errors import UsageError
from ggufrun.hub.models import resolve_model
from ggufrun.workflows.open_model import check_file, open_model
from ggufrun.workflows.speculation import speculation, with_room_for_draft

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ggufrun.api.options import Sampling

Messages = str | Sequence[Mapping[str, Any]]
"""One question, or messages with role and content, as in OpenAI's API."""


def load(
    model: str | Path,
    *,
    n_ctx: int | None = None,
    n_gpu_layers: int | None = None,
    n_threads: int | None = None,
    n_batch: int | None = None,
    n_ubatch: int | None = None,
    flash_attn: bool | None = None,
    type_k: str = "f16",
    type_v: str = "f16",
    adapters: Sequence[str | Path | tuple[str | Path, float]] = (),
    draft: str | Path | None = None,
    lookup: bool = False,
    style: str | None = None,
    chat_template: str | None = None,
    template_variables: Mapping[str, Any] | None = None,
    placement: Placement | None = None,
    mmap: bool = True,
    mlock: bool = False,
    oversize: bool = False,
    on_progress: Callable[[float], bool] | None = None,
) -> Model:
    """Open a model: a ``.gguf`` file, or one of the local models by the name that ``ggufrun list`` shows.

    ``n_ctx`` is in tokens (None: 4096, or less where the model was trained with less; 0: what it was trained with).
    ``n_gpu_layers`` None puts as many layers on the GPU as fit, -1 all. ``adapters`` are GGUF adapters, alone or with a
    scale. ``draft`` names a small model that guesses ahead, ``lookup`` guesses from what was said. ``style`` or
    ``chat_template`` replace the prompt format that the model file brings. ``placement`` says more about devices.
    ``oversize`` tries a model that is larger than the memory. ``on_progress`` hears fractions from 0 to 1 while weights
    are read; returning False gives up with KeyboardInterrupt.

    The result is a context manager; leaving it frees the memory. Raises NotFoundError, FormatError (a damaged file),
    UnsupportedError (not a model that continues text), UsageError and EngineError, all of them GgufrunError.
    """
    path = resolve_model(str(model), gguf_only=True)
    check_file(path)
    small = None if draft is None else resolve_model(str(draft), gguf_only=True)
    if small is not None:
        check_file(small)
    if lookup and small is not None:
        raise UsageError("lookup and draft both guess ahead", "give one of them")
    guesses = DraftParams() if lookup or small is not None else None
    given: dict[str, Any] = {"n_ctx": n_ctx, "n_batch": n_batch, "n_ubatch": n_ubatch, "threads": n_threads}
    context_params = with_room_for_draft(
        ContextParams(
            **{name: value for name, value in given.items() if value is not None},
            flash_attention={None: "auto", True: "on", False: "off"}[flash_attn],
            type_k=type_k,
            type_v=type_v,
            adapters=tuple(
                Adapter(path_of(one[0]), float(one[1])) if isinstance(one, tuple) else Adapter(path_of(one))
                for one in adapters
            ),
        ),
        guesses,
    )
    params = ModelParams(path, n_gpu_layers, mmap, mlock, placement=placement or Placement())
    if not oversize:
        memory_check.check(params, context_params)
    options = FormatOptions(style=style, template=chat_template, variables=dict(template_variables or {}))
    notes: list[str] = []
    with ExitStack() as stack:
        engine = stack.enter_context(
            open_model(params, context_params, load=lambda chosen: EngineModel(chosen, on_progress), note=notes.append)
        )
        engine.check_talks()
        context = stack.enter_context(Context(engine, context_params))
        speculator = stack.enter_context(speculation(context, guesses, small, mmap))
        choice = choose(engine, options)
        return Model(Speaker(stack.pop_all(), context, speculator, options, choice), (*notes, *choice.warnings))
    raise AssertionError("the stack swallows nothing")


class Model:
    """A model in memory, made by `load`.

    One answer is generated at a time: another thread that asks waits, and the same thread is refused while a stream of
    it is open. ``path`` is its file, ``n_ctx`` its context in tokens, ``notes`` what was decided or noticed on opening.
    """

    def __init__(self, speaker: Speaker, notes: tuple[str, ...]) -> None:
        self._speaker = speaker
        self.path = speaker.held.model.path
        self.name = speaker.held.model.name
        self.n_ctx = speaker.held.n_ctx
        self.notes = notes

    @property
    def format(self) -> str:
        """The prompt format, and why it was chosen."""
        return f"{self._speaker.choice.format.name}: {self._speaker.choice.why}"

    @overload
    def chat(
        self,
        messages: Messages,
        *,
        stream: Literal[False] = False,
        think: bool | None = None,
        **options: Unpack[Sampling],
    ) -> Answer: ...

    @overload
    def chat(
        self, messages: Messages, *, stream: Literal[True], think: bool | None = None, **options: Unpack[Sampling]
    ) -> Stream: ...

    def chat(
        self, messages: Messages, *, stream: bool = False, think: bool | None = None, **options: Any
    ) -> Answer | Stream:
        """Answer the last of ``messages``: a question, or a list of messages whose last is the user's.

        What earlier calls had in common with these messages is not computed again. With ``stream`` the answer comes in
        pieces. ``think`` lets a model with such a switch think first, or not. For ``options`` see `Sampling`. Raises
        UsageError for messages or options that make no sense, EngineError where they do not fit the context.
        """
        talk = parse(messages)
        speaker = self._speaker
        asked = answer_options(options, speaker.choice.sampling)
        choice = speaker.format(asked.stop, think)
        session = speaker.session(choice, asked, talk.system)
        if talk.turns:
            vocab = speaker.context.model.vocab
            session.past, session.ids = replay(choice.format, vocab, session.system, talk.turns)
        return cast(Answer | Stream, speaker.answer(lambda: session.ask(talk.question), stream))

    @overload
    def complete(self, text: str, *, stream: Literal[False] = False, **options: Unpack[Sampling]) -> Answer: ...

    @overload
    def complete(self, text: str, *, stream: Literal[True], **options: Unpack[Sampling]) -> Stream: ...

    def complete(self, text: str, *, stream: bool = False, **options: Any) -> Answer | Stream:
        """Continue ``text`` where it ends, without any prompt format: for base models."""
        model = self._speaker.context.model
        asked = answer_options(options, recommended(model))
        choice = Choice(PlainPrompt(model.vocab, reverse=asked.stop), "plain text")
        session = self._speaker.session(choice, asked, "")
        return cast(Answer | Stream, self._speaker.answer(lambda: session.open(text), stream))

    def session(self, system: str | None = None, **options: Unpack[Sampling]) -> Conversation:
        """A conversation that remembers what was said; ``options`` are those of all its answers."""
        return Conversation(self._speaker, system, dict(options))

    def tokenize(self, text: str, *, special: bool = False, bos: bool = False) -> list[int]:
        """Token ids of ``text``. With ``special``, control tokens written in it count as such; ``bos`` puts the
        beginning-of-text token in front if the model wants one.
        """
        return self._speaker.context.model.vocab.tokenize(text, special=special, bos=bos)

    def detokenize(self, ids: Sequence[int], *, special: bool = False) -> str:
        """The text of token ids; ``special`` writes control tokens too. Bytes that are not characters become �."""
        vocab = self._speaker.context.model.vocab
        if not all(0 <= token < vocab.size for token in ids):
            raise UsageError(f"a token id is outside 0 to {vocab.size - 1}", "use ids of this model")
        return b"".join(vocab.piece(token, special=special) for token in ids).decode("utf-8", "replace")

    def close(self) -> None:
        """Free the memory. Closing twice is fine."""
        self._speaker.stack.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()
