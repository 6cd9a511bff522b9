"""The tab in the host's page: models, documents, and what was looked up. Draws with the gradio that the host brings."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ...core.errors import HanpacaError
from . import host, panels

if TYPE_CHECKING:
    from .extension import Extension

TRUNCATION, TEMPLATE = "truncation_length", "instruction_template_str"
"""Components of the host that follow the model."""


def draw(extension: Extension) -> None:
    """Called by the host inside the tab."""
    import gradio as gr

    for problem in extension.problems:
        gr.Markdown(f"⚠ {problem}")
    page = Tab(extension, gr)
    page.models()
    page.documents()
    page.looked_up()
    page.wire()


class Tab:
    """The components of one page, and what they do."""

    def __init__(self, extension: Extension, gr: Any) -> None:
        self.extension, self.gr = extension, gr
        self.own = not host.multi_user()
        """Whether whoever sees the page may change what holds for all."""

    # -- what there is -------------------------------------------------------------------------------------------------

    def models(self) -> None:
        """Hanpaca's own model."""
        gr, settings = self.gr, self.extension.settings
        gr.Markdown("## Model / 模型")
        with gr.Row():
            self.model = gr.Dropdown(
                choices=_with(panels.model_choices(), settings.model),
                value=settings.model or None,
                allow_custom_value=True,
                interactive=self.own,
                label="Model: a name of `hanpaca models`, or a .gguf file",
            )
            self.context = gr.Number(
                value=settings.context, precision=0, minimum=0, interactive=self.own, label="Context; 0: its own window"
            )
            self.load = gr.Button("Load / 加载", interactive=self.own)
            self.unload = gr.Button("Unload / 卸载", interactive=self.own)
        self.status = gr.Markdown(lambda: panels.backend_status(self.extension.backend))
        self.rope = gr.Markdown(panels.rope_table(settings.model, settings.context))

    def documents(self) -> None:
        """The user's documents."""
        gr, settings = self.gr, self.extension.settings
        gr.Markdown("## Documents / 文档")
        with gr.Row():
            self.on = gr.Checkbox(
                value=settings.documents or not self.own,
                interactive=self.own,
                label="Answer from the documents / 依据文档回答",
            )
            self.always = gr.Checkbox(
                value=settings.always_use, interactive=self.own, label="Also where they do not seem to hold the answer"
            )
            self.write = gr.Checkbox(
                value=settings.write_sources,
                interactive=self.own,
                label="Write the sources into the reply (for the API)",
            )
        with gr.Row():
            self.library = gr.Dropdown(
                choices=_with(self.extension.documents.names(), settings.library),
                value=settings.library,
                allow_custom_value=True,
                interactive=self.own,
                visible=self.own,
                label="Library / 资料库",
            )
            self.passages = gr.Slider(1, 20, value=settings.passages, step=1, interactive=self.own, label="Passages")
        self.files = gr.File(
            file_count="multiple", type="filepath", label="Add files / 添加文件", elem_id="hanpaca-files"
        )
        self.table = gr.HTML(panels.file_table(self._rows() if self.own else []), elem_id="hanpaca-table")
        with gr.Row():
            self.chosen = gr.Dropdown(choices=self._choices() if self.own else [], multiselect=True, label="Files")
            self.delete = gr.Button("Delete / 删除")
            self.refresh = gr.Button("Refresh / 刷新", elem_id="hanpaca-refresh")

    def looked_up(self) -> None:
        """What the last question found."""
        self.gr.Markdown("## Looked up for the last question / 上一个问题的检索结果")
        self.panel = self.gr.HTML(panels.looked_up(None), elem_id="hanpaca-panel")

    # -- what they do --------------------------------------------------------------------------------------------------

    def wire(self) -> None:
        """Tie the components to their work, and to the host's."""
        gradio = host.shared().gradio
        follow = [gradio[name] for name in (TRUNCATION, TEMPLATE) if name in gradio]
        if self.own:
            self.load.click(self._load, [self.model, self.context], [self.status, self.rope, *follow])
            self.unload.click(self._unload, None, [self.status, self.rope, *follow])
            for box, name in ((self.on, "documents"), (self.always, "always_use"), (self.write, "write_sources")):
                box.change(self._setter(name, bool), box, None)
            self.passages.change(self._setter("passages", int), self.passages, None)
            self.library.change(self._set_library, self.library, [self.table, self.chosen])
            self.model.change(panels.rope_table, [self.model, self.context], self.rope)
            self.context.change(
                lambda name, size: panels.rope_table(name or "", int(size or 0)), [self.model, self.context], self.rope
            )
        self.files.upload(self._upload, self.files, [self.table, self.chosen, self.files])
        self.delete.click(self._delete, self.chosen, [self.table, self.chosen])
        self.refresh.click(self._refresh, None, [self.table, self.chosen, self.panel, self.status])
        if "unload_model" in gradio:
            gradio["unload_model"].click(self._host_unloads, None, None)
        with contextlib.suppress(Exception):  # drawn outside of a tab: the Refresh button does the same
            from gradio.context import Context

            Context.block.select(self._refresh, None, [self.table, self.chosen, self.panel, self.status])

    def _load(self, name: str | None, context: float | None) -> list[Any]:
        name, size = (name or "").strip(), int(context or 0)
        with self._told():
            self.extension.backend.load(name, size)
        self.extension.set(backend=True, model=name, context=size)
        return [*self._model_told(name, size), *self._followed()]

    def _unload(self) -> list[Any]:
        self.extension.backend.unload()
        self.extension.set(backend=False)
        settings = self.extension.settings
        return [*self._model_told(settings.model, settings.context), *self._followed()]

    def _model_told(self, name: str, context: int) -> list[str]:
        return [panels.backend_status(self.extension.backend), panels.rope_table(name, context)]

    def _followed(self) -> list[Any]:
        """Values for the host's components that follow the model."""
        settings = host.shared().settings
        names = [name for name in (TRUNCATION, TEMPLATE) if name in host.shared().gradio]
        return [self.gr.update(value=settings[name]) for name in names]

    def _host_unloads(self) -> None:
        """The host's own model goes: ours, if it is switched on, comes back."""
        settings = self.extension.settings
        if settings.backend and not self.extension.backend.active:
            self.extension.backend.return_when_free(host.shared().model)

    def _setter(self, name: str, kind: Callable[[Any], Any]) -> Callable[[Any], None]:
        return lambda value: self.extension.set(**{name: kind(value)})

    def _set_library(self, name: str | None) -> list[Any]:
        if name and name.strip():
            self.extension.set(library=name.strip())
        return self._listed()

    def _upload(self, paths: list[str] | str | None) -> Iterator[list[Any]]:
        given = [paths] if isinstance(paths, str) else paths or []
        with self._told():
            for rows in self.extension.documents.upload(self.extension.settings.library, given):
                yield [panels.file_table(rows), self.gr.update(), self.gr.update()]
            failed = [row for row in rows if not row.path] if given else []
            yield [panels.file_table([*failed, *self._rows()]), self._listed()[1], None]

    def _delete(self, paths: list[str] | None) -> list[Any]:
        with self._told():
            self.extension.documents.delete(self.extension.settings.library, paths or [])
        return self._listed()

    def _refresh(self) -> list[Any]:
        documents = self.extension.documents
        record = documents.last.get(documents.owner())
        return [*self._listed(), panels.looked_up(record), panels.backend_status(self.extension.backend)]

    def _rows(self) -> list[Any]:
        return self.extension.documents.rows(self.extension.settings.library)

    def _choices(self) -> list[tuple[str, str]]:
        return [(row.name, row.path) for row in self._rows()]

    def _listed(self) -> list[Any]:
        return [panels.file_table(self._rows()), self.gr.update(choices=self._choices(), value=[])]

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Errors of ours as the page shows them."""
        try:
            yield
        except HanpacaError as error:
            raise host.told(error) from error


def _with(choices: list[str], value: str) -> list[str]:
    """The choices with the one that is set, which may be none of them."""
    return choices if not value or value in choices else [value, *choices]
