"""`make dev`: both services and, where no Redis answers, a Valkey, from one command.

One process of ours watches three others, each in a process group of its own:

* `settings`: where everything listens, from the environment
* `ports`: whether an address is free, and who has it if not
* `valkey`: whether Redis answers, and what to start if not
* `child`: one process: start, log, watch, stop
* `readiness`: polling until a service can serve, with what it says meanwhile
* `session`: the order of it all, signals, the end
* `banner`: what is printed once everything is up
"""
