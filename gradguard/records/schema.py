"""What the columns of a run's records mean: written beside them, read with them."""

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property

from gradguard.records import old_clips
from gradguard.records.clips import NOTHING, ClipData

# Goes up when a field changes its meaning or goes away, not when one is added. In
# version 1, that of 0.1, the clip was a text.
VERSION = 2


class NewerSchemaError(ValueError):
    """A schema says things that this version of gradguard cannot understand."""


@dataclass(frozen=True)
class Schema:
    """What the columns of a norms tensor mean, written once beside the first of them.

    Attributes:
        names: Parameter names in model order.
        optimizer: Name of the optimizer that holds them; empty where it is the only one.
        clip: What clips.
        unoptimized: Trainable parameters that no optimizer holds.
        content: What it was decoded from; empty for one that is new.
    """

    names: tuple[str, ...]
    optimizer: str = ""
    clip: ClipData = NOTHING
    unoptimized: tuple[str, ...] = ()
    content: bytes = field(default=b"", compare=False, repr=False)

    def encode(self) -> bytes:
        """Return the schema as the content of the plugin's metadata."""
        fields = {
            "version": VERSION,
            "names": self.names,
            "optimizer": self.optimizer,
            "clip": self.clip.to_json(),
            "unoptimized": self.unoptimized,
        }
        return json.dumps(fields, ensure_ascii=False).encode()

    @classmethod
    def decode(cls, content: bytes) -> "Schema":
        """Return the schema that `encode` wrote, in this version or an earlier one.

        Raises:
            NewerSchemaError: If a later version wrote it.
        """
        fields = json.loads(content)
        if fields["version"] > VERSION:
            raise NewerSchemaError(
                f"is of format {fields['version']}, and this gradguard reads up to "
                f"{VERSION}: install a newer one"
            )
        read = old_clips.read if fields["version"] == 1 else ClipData.from_json
        return cls(
            tuple(fields["names"]),
            fields["optimizer"],
            read(fields["clip"]),
            tuple(fields["unoptimized"]),
            content,
        )

    @cached_property
    def suffix(self) -> str:
        """Hash of the schema as it was written, the last part of its tags.

        TensorBoard keeps the first metadata of a tag for good, so another schema
        under the same tag would label the columns wrongly.
        """
        return hashlib.sha256(self.content or self.encode()).hexdigest()[:8]

    def tag(self, kind: str) -> str:
        """Return the tag of one tensor: `kind` is NORMS, STEPS, LOSS, EPOCHS, ..."""
        return f"{kind}/{self.suffix}"

    def scalar_tag(self, tag: str) -> str:
        """Return a scalar's tag, with the optimizer's name where there are several."""
        return f"{tag}/{self.optimizer}" if self.optimizer else tag
