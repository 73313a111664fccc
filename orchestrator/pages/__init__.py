"""Pages for people: runs, questions, memory and the fleet; drawn by the server, alive by a little JavaScript of ours.

They show and do what the API does, through the same client, as the tenant of the key that somebody signed in with. What
agents, files and models say is text in them, never markup.
"""
