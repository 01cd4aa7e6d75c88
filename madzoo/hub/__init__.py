"""Checkpoint folders to and from the Hugging Face Hub; the only room that writes to a network."""

from madzoo.hub.pull import pull
from madzoo.hub.push import Pushed, push
from madzoo.hub.search import Found, search

__all__ = ["Found", "Pushed", "pull", "push", "search"]
