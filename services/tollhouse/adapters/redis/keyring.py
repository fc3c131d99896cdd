"""Tenants and keys of one Redis, as operators and the admin API keep them.

Blocking: for the command line, and in threads. Every change is one transaction with its
entry in the audit log (`ring`); what is asked for and can't be done is a KeyringError.
"""

from tollhouse.adapters.redis.imports import Imports
from tollhouse.adapters.redis.keys import Keys
from tollhouse.adapters.redis.new_keys import NewKeys
from tollhouse.adapters.redis.ring import KeyringError, NotThereError, TakenError
from tollhouse.adapters.redis.tenants import Tenants

__all__ = ["Keyring", "KeyringError", "NotThereError", "TakenError"]


class Keyring(Tenants, NewKeys, Keys, Imports):
    """All that can be done. Every method raises Unavailable without Redis."""
