"""`flashq/gateway/proto/descriptor.py`, derived from `flashq.proto` by the protobuf compiler.

The server reads the compiled form, so that it needs no compiler, and no code that was generated for
one version of protobuf only.
"""

from __future__ import annotations

import tempfile
from base64 import b64encode
from pathlib import Path
from typing import Final

PROTO: Final = Path(__file__).resolve().parent.parent / "flashq/gateway/proto/flashq.proto"
CHARS_PER_LINE: Final = 88

_HEAD: Final = '''"""The compiled form of `flashq.proto`.

Generated from flashq/gateway/proto/flashq.proto by `python -m tools.generate`; do not edit.
"""

from __future__ import annotations

from typing import Final

'''


def compiled() -> bytes:
    """Return a serialized `FileDescriptorSet` with the one file.

    Raises:
        ValueError: the compiler does not like it; it has said why on standard error.
    """
    from grpc_tools import protoc

    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory) / "set"
        status = protoc.main(
            ["protoc", f"-I{PROTO.parent}", f"--descriptor_set_out={output}", PROTO.name]
        )
        if status:
            raise ValueError(f"{PROTO.name} cannot be compiled")
        return output.read_bytes()


def render() -> str:
    """Return the text of the generated module."""
    text = b64encode(compiled()).decode()
    lines = [text[at : at + CHARS_PER_LINE] for at in range(0, len(text), CHARS_PER_LINE)]
    quoted = "\n".join(f'    "{line}"' for line in lines)
    return (
        f"{_HEAD}DESCRIPTOR_SET: Final = (\n{quoted}\n)\n"
        '"""A serialized `FileDescriptorSet`, in base64."""\n'
    )
