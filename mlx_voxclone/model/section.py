"""Reading `params.json` value by value: each is checked, and a fault names the file and the whole key."""

import json
import re
from typing import Any

from mlx_voxclone.errors import ConfigError

# Far above any real model: a wrong number is refused here, not after minutes of building it.
MAX_SIZE = 10_000_000
MAX_NUMBER = 3e38  # what float32 holds


class Section:
    """One object of `params.json`.

    Every method raises ConfigError, in one line, for a key that is missing or holds something else than it reads.
    """

    def __init__(self, content: Any, where: str, path: str = ""):
        self._content, self._where, self._path = content, where, path
        if not isinstance(content, dict):
            name = path or "the document"
            raise ConfigError(f"{where}: {name} must be an object {{...}}; got {shown(content)}")

    def _name(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key

    def fault(self, key: str, text: str) -> ConfigError:
        return ConfigError(f"{self._where}: {self._name(key)} {text}")

    def value(self, key: str, default: Any = None) -> Any:
        """What the key holds; without the key the default, which None makes an error."""
        if key not in self._content and default is None:
            raise ConfigError(f"{self._where}: key {self._name(key)!r} is missing")
        return self._content.get(key, default)

    def section(self, key: str) -> "Section":
        return Section(self.value(key), self._where, self._name(key))

    def size(self, key: str, default: int | None = None, most: int = MAX_SIZE) -> int:
        value = self.value(key, default)
        if type(value) is not int or not 1 <= value <= most:
            raise self.fault(key, f"must be a whole number from 1 to {most}; got {shown(value)}")
        return value

    def index(self, key: str, count: int) -> int:
        value = self.value(key)
        if type(value) is not int or not 0 <= value < count:
            raise self.fault(key, f"must be a whole number from 0 to {count - 1}; got {shown(value)}")
        return value

    def positive(self, key: str, default: float | None = None) -> float:
        value = self.value(key, default)
        if type(value) not in (int, float) or not 0 < value <= MAX_NUMBER:  # NaN compares false
            raise self.fault(key, f"must be a finite number above 0; got {shown(value)}")
        return float(value)

    def flag(self, key: str) -> bool:
        value = self.value(key)
        if not isinstance(value, bool):
            raise self.fault(key, f"must be true or false; got {shown(value)}")
        return value

    def sizes(self, key: str, default: str | None = None, most: int = MAX_SIZE) -> tuple[int, ...]:
        """A text such as "2,2,2,2"; its numbers add up to at most `most`."""
        text = self.value(key, default)
        parts = text.split(",") if isinstance(text, str) else []
        if parts and all(re.fullmatch(r" *[0-9]{1,8} *", part) for part in parts):
            numbers = tuple(int(part) for part in parts)
            if min(numbers) >= 1 and sum(numbers) <= most:
                return numbers
        wanted = f'must be whole numbers above 0 with commas between, in sum at most {most}, such as "2,2,2,2"'
        raise self.fault(key, f"{wanted}; got {shown(text)}")

    def expect(self, key: str, expected: Any, default: Any = None) -> None:
        """Refuse any value but the one that the model code implements."""
        value = self.value(key, default)
        if value != expected:
            raise self.fault(key, f"is {shown(value)}; this model code implements {shown(expected)}")


def shown(value: Any) -> str:
    """A value as JSON writes it, cut to one short line."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
