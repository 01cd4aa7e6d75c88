"""A small, real Hugging Face Hub on loopback: real HTTP, real files on disk, and faults on demand.

The Hub answers on 127.0.0.1 and sends large files to ``localhost``: another host name, as the real one does.
"""

from hub_server.server import HubServer
from hub_server.serving import serve_hub
from hub_server.users import TOKENS

__all__ = ["TOKENS", "HubServer", "serve_hub"]
