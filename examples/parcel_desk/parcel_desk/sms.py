"""Text messages. Importing this module switches the channel on."""

from parcel_desk.notifications import channel

# The modem's spool: the gateway script empties it every minute.
spool: list[str] = []


@channel
def queue_message(code: str, what: str) -> None:
    spool.append(f"Parcel {code}: {what}")
