"""puna as a server: HTTP wires (OpenAI, Anthropic, Ollama, llama-server), each a translation to one internal request.

The road of a request, in the order in which it passes the files:

`connection.py` reads its head within limits -> `guard.py` checks host, origin and key -> `app.py` finds its route -> a file of
`wires/` reads its body (`body.py`, `strict_json.py`, `fields.py`) and makes a `Job` of it (`job.py`) -> `models.py` finds or
loads the model -> `running_job.py` runs the job and tells of it by events (`events.py`) -> the wire writes these in its own words
-> `replies.py` sends them, and ends the job when the client goes away.
"""
