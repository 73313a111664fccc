"""A stand-in for a language model: an HTTP server that speaks Messages and answers by rules.

It exists so that the main job runs without a key. It says what it is in every answer, costs nothing, and knows only the
kinds of work that its policies name. Nothing else in this project knows that it exists.
"""

# The name in every answer, so that journal, report and costs show who decided.
MODEL = "offline-rules-1"
# Part of every text that it writes; a reader must never take a rule for a judgement.
NOTICE = "no language model was used"
