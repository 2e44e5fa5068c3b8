"""Log lines: JSON in production, for people in development, and never a secret in either."""

import logging
import re
import sys
from collections.abc import Mapping
from typing import Any, Final

import structlog
from structlog.typing import EventDict, WrappedLogger

from connector.settings import Settings

# Rafiki's names of levels.
LEVELS: Final = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
    "silent": logging.CRITICAL + 1,
}
MASK: Final = "********"
SECRET_KEY: Final = re.compile(
    r"(authorization|token|secret|password|credential|cookie|private_key|api_key)", re.IGNORECASE
)
SECRET_TEXT: Final = (
    # The password of a URL.
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s/?#@:]*):[^\s/?#@]+@", re.IGNORECASE), rf"\1:{MASK}@"),
    # A bearer token, wherever it is quoted.
    (re.compile(r"\b(bearer|gnap)\s+[^\s,;'\"]+", re.IGNORECASE), rf"\1 {MASK}"),
)


def configure(settings: Settings, process: str) -> None:
    """Set up logging of this process, once, to its standard error.

    process - bound to every line, such as ``worker-0``.
    """

    def add_process(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        event["process"] = process
        return event

    renderer: structlog.typing.Processor = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
    )
    if settings.production:
        renderer = structlog.processors.JSONRenderer(default=str)
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        add_process,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        mask_secrets,
        renderer,
    ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[settings.log_level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # Libraries speak through the standard module: their warnings and worse, in the same place.
    logging.basicConfig(
        level=max(LEVELS[settings.log_level], logging.WARNING),
        format=f"%(asctime)s [%(levelname)s] %(name)s: %(message)s process={process}",
        handlers=[_MaskingHandler(sys.stderr)],
        force=True,
    )


def mask_secrets(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Hide what is secret by its name, and secrets inside of text."""
    return {key: _mask(key, value) for key, value in event.items()}


def _mask(key: str, value: Any) -> Any:
    if SECRET_KEY.search(key) and value is not None and not isinstance(value, bool):
        return MASK
    if isinstance(value, Mapping):
        return {str(name): _mask(str(name), item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mask("", item) for item in value]
    if isinstance(value, bytes):
        return mask_text(value.decode(errors="replace"))
    if isinstance(value, str | BaseException):
        return mask_text(str(value))
    return value


def mask_text(text: str) -> str:
    """Hide passwords in URLs and bearer tokens."""
    for pattern, replacement in SECRET_TEXT:
        text = pattern.sub(replacement, text)
    return text


class _MaskingHandler(logging.StreamHandler[Any]):
    def format(self, record: logging.LogRecord) -> str:
        return mask_text(super().format(record))
