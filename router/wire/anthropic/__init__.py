"""The Anthropic Messages dialect, both ways: its clients over chat, and chat over its backends.

Clients: `parse` reads their requests, `errors` tells them what went wrong, `bridge` carries a request over chat
(`twin`) and the answer back (`answers`), `counting` estimates tokens. Backends: `native` passes on what is already in
the dialect, `requests` and `replies` translate chat.
"""
