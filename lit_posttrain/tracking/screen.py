"""Keeps secrets off the screen and out of log files: log records, warnings and tracebacks of this process.

What is printed on purpose is redacted where it is printed.
"""

import logging
import sys
import threading
import traceback
import warnings
from types import TracebackType
from typing import Any

from lit_posttrain.tracking.redaction import in_text

_record = logging.getLogRecordFactory()
_warning = warnings.formatwarning


def guard_screen() -> None:
    """From now on; a second call changes nothing. Hooks that others have set for tracebacks stay."""
    logging.setLogRecordFactory(_redacted_record)
    warnings.formatwarning = _redacted_warning
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _redacted_traceback
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = _redacted_in_thread


def _redacted_record(*args: Any, **kwargs: Any) -> logging.LogRecord:
    record = _record(*args, **kwargs)
    message = record.getMessage()
    shown = in_text(message)
    if shown != message:
        record.msg, record.args = shown, None
    if record.exc_info and record.exc_info[0] is not None:
        record.exc_text = in_text("".join(traceback.format_exception(*record.exc_info)).rstrip())
    return record


def _redacted_warning(*args: Any, **kwargs: Any) -> str:
    return in_text(_warning(*args, **kwargs))


def _redacted_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None = None
) -> None:
    sys.stderr.write(in_text("".join(traceback.format_exception(kind, error, trace))))


def _redacted_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is not SystemExit:
        name = args.thread.name if args.thread else "?"
        shown = "".join(traceback.format_exception(args.exc_type, args.exc_value, args.exc_traceback))
        sys.stderr.write(f"Exception in thread {name}:\n{in_text(shown)}")
