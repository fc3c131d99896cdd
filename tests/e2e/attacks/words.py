"""What rows say for values that only a run knows; as long as these, so lengths hold."""

KEY = b"th_" + b"g" * 12 + b"_" + b"S" * 43
"""A good key: chat with tiny-* and pictures, completions, vectors, models."""
NARROW = b"th_" + b"n" * 12 + b"_" + b"S" * 43
"""A good key that may chat with tiny-chat and nothing else."""
BOUND = b"th_" + b"b" * 12 + b"_" + b"S" * 43
"""A good key, for 203.0.113.0/24 only."""
REVOKED = b"th_" + b"r" * 12 + b"_" + b"S" * 43
EXPIRED = b"th_" + b"e" * 12 + b"_" + b"S" * 43
READER = b"th_" + b"l" * 12 + b"_" + b"S" * 43
"""A good key that may list models and nothing else."""
KEYS = (KEY, NARROW, BOUND, REVOKED, EXPIRED, READER)
UNKNOWN = b"th_" + b"u" * 12 + b"_" + b"S" * 43
"""Well formed, and nobody's."""
PROOF = b"the-proof-of-admission-" + b"P" * 23
"""The value that opens the routes to backends."""
ADMIN_PORT = b"@9901"
"""The port of Envoy's admin."""

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"
MODELS = "/v1/models"
BODY = (
    b'{"model":"tiny-chat","max_tokens":2,"messages":[{"role":"user","content":"hi"}]}'
)
PROMPT = b'{"model":"tiny-chat","max_tokens":2,"prompt":"hi"}'
EMBED = b'{"model":"vectors","input":"hi"}'
RESPOND = b'{"model":"tiny-chat","max_output_tokens":2,"input":"hi"}'
"""`BODY` is also one of MESSAGES."""
EVIL = "evil"
"""Part of every value that must not reach a backend's headers."""
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
"""A trace's id of the client's choice."""
