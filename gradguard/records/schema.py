"""What the columns of a run's records mean: written beside them, read with them."""

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property


@dataclass(frozen=True)
class Schema:
    """What the columns of a norms tensor mean, written once beside the first of them.

    Attributes:
        names: Parameter names in model order.
        optimizer: Name of the optimizer that holds them; empty where it is the only one.
        clip: The policies, or the Trainer's clip, in code; empty where neither clips.
        unoptimized: Trainable parameters that no optimizer holds.
    """

    names: tuple[str, ...]
    optimizer: str = ""
    clip: str = ""
    unoptimized: tuple[str, ...] = ()

    def encode(self) -> bytes:
        """Return the schema as the content of the plugin's metadata."""
        return json.dumps({"version": 1, **asdict(self)}, ensure_ascii=False).encode()

    @classmethod
    def decode(cls, content: bytes) -> "Schema":
        """Return the schema that `encode` wrote."""
        fields = json.loads(content)
        return cls(
            tuple(fields["names"]),
            fields["optimizer"],
            fields["clip"],
            tuple(fields["unoptimized"]),
        )

    @cached_property
    def suffix(self) -> str:
        """Hash of the schema, the last part of its tags.

        TensorBoard keeps the first metadata of a tag for good, so another schema
        under the same tag would label the columns wrongly.
        """
        return hashlib.sha256(self.encode()).hexdigest()[:8]

    def tag(self, kind: str) -> str:
        """Return the tag of one tensor: `kind` is NORMS, STEPS, LOSS, EPOCHS, ..."""
        return f"{kind}/{self.suffix}"

    def scalar_tag(self, tag: str) -> str:
        """Return a scalar's tag, with the optimizer's name where there are several."""
        return f"{tag}/{self.optimizer}" if self.optimizer else tag
