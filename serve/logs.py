"""One line of JSON on stderr for each inference request."""

import json
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

from encas.serve.service import Event, Observer, Record


class RequestLog(Observer):
    """Writes what became of every request."""

    def __init__(self, file: TextIO = sys.stderr) -> None:
        """Write to a file."""
        self._file = file

    def finished(self, record: Record) -> None:
        """Write a line."""
        line = {
            "time": _time(record.start_s),
            "protocol": record.protocol,
            "model": record.model,
            "version": record.version,
            "outcome": record.kind.reason,
            "seconds": round(record.total_s, 6),
            "request_id": record.request_id,
            "traceparent": record.headers.get("traceparent", ""),
        }
        if record.times is not None:
            line |= {
                "samples": record.n,
                "exit_stages": list(record.exit_stages),
                "macs": record.macs,
                "gear": record.gear,
                "preprocess_s": round(record.times.prepare_s, 6),
                "queue_s": round(record.times.queue_s, 6),
                "inference_s": round(record.times.run_s, 6),
            }
        self._write(line)

    def noticed(self, event: Event) -> None:
        """Write a line that has an `event`."""
        self._write(
            {
                "time": _time(event.at_s),
                "event": event.kind,
                "model": event.model,
                "version": event.version,
                "text": event.text,
            }
        )

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


def _time(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds")
