"""The two names that a content has beside its sha256: git's, and that of xet."""

import hashlib
from pathlib import Path

try:
    import hf_xet
except ImportError:  # an optional part of huggingface_hub; the tests of xet skip themselves
    hf_xet = None


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def xet_hash(path: Path) -> str:
    return hf_xet.hash_files([str(path)])[0].hash
