"""Agents at a desk: mail, calendars, tickets, forms and pages of a browser."""

import json
import random

from loops.family import Families
from loops.made_up import form, go_round, name, names, phrase, prelude, record, token
from loops.noise import fill
from loops.scene import Scene

FAMILIES = Families()


def _address(rng: random.Random) -> str:
    return f"{name(rng).lower()}@{name(rng, 2).lower()}.test"


# --- loops ------------------------------------------------------------------------------------------------------------


@FAMILIES.loop("near_identical")
def meeting_shifted(scene: Scene, rng: random.Random) -> None:
    """A meeting is moved by minutes and meets the same conflict."""
    prelude(scene)
    who, title, other = _address(rng), phrase(rng, 3), phrase(rng, 2)
    minutes = rng.sample(range(0, 60, 5), 9)

    def body(index: int) -> None:
        what = {"title": title, "attendee": who, "start": f"2026-12-03T10:{minutes[index]:02}:00", "minutes": 60}
        said = f"Conflict: {who} is busy with '{other}' from 09:00 to 13:00."
        scene.act("create_event", what, error=said, error_type="ConflictError")

    go_round(scene, 9, 3, body)


@FAMILIES.loop("near_identical")
def letter_reworded(scene: Scene, rng: random.Random) -> None:
    """One letter to one person with a word or two changed each time."""
    prelude(scene)
    who, subject, words = _address(rng), phrase(rng, 3), phrase(rng, 22).split()

    def body(_: int) -> None:
        mine = list(words)
        for _ in range(rng.randint(1, 3)):
            mine[rng.randrange(len(mine))] = name(rng, 2).lower()
        scene.act(
            "send_email", {"to": who, "subject": subject, "body": " ".join(mine)}, f"Message sent (id {token(rng)})"
        )

    go_round(scene, 9, 3, body)


@FAMILIES.loop("alternating")
def opened_and_closed(scene: Scene, rng: random.Random) -> None:
    """A ticket is closed, opened, closed, opened."""
    prelude(scene)
    ticket, writes = rng.randint(1000, 9999), form(rng)

    def body(_: int) -> None:
        scene.act("set_status", {"ticket": ticket, "status": "closed"}, writes({"ticket": ticket, "status": "closed"}))
        scene.act("set_status", {"ticket": ticket, "status": "open"}, writes({"ticket": ticket, "status": "open"}))

    go_round(scene, 5, 1, body)


@FAMILIES.loop("identical")
def page_ends_here(scene: Scene, rng: random.Random) -> None:
    """Scrolling down at the foot of a page."""
    prelude(scene)
    shown = f"[viewport 100%]\n{phrase(rng, 20)}\n© 2026 {name(rng)} | Imprint | Privacy"
    go_round(scene, 8, 2, lambda _: scene.act("scroll", {"direction": "down", "pixels": 800}, shown))


@FAMILIES.loop("stuck_state")
def clicks_that_do_nothing(scene: Scene, rng: random.Random) -> None:
    """One element after the other is clicked; the page stays."""
    prelude(scene)
    tree = (
        f"RootWebArea '{phrase(rng, 2)}'\n  button 'Continue' disabled\n  textbox 'Code' required\n  link '{name(rng)}'"
    )

    def body(_: int) -> None:
        scene.act("click", {"bid": str(rng.randint(10, 400))}, tree)

    go_round(scene, 10, 3, body)


@FAMILIES.loop("identical")
def captcha(scene: Scene, rng: random.Random) -> None:
    """A page behind a test for humans, loaded over and over; each answer has its own token."""
    prelude(scene)
    url = f"https://{name(rng).lower()}.test/{token(rng, 5)}"

    def body(_: int) -> None:
        said = (
            f'<html><title>Are you human?</title><input type="hidden" name="csrf" value="{fill("<hex>", rng)}"></html>'
        )
        scene.act("goto", {"url": url}, said)

    go_round(scene, 8, 2, body)


@FAMILIES.loop("alternating")
def cookies_accepted(scene: Scene, rng: random.Random) -> None:
    """The page, the banner, the banner is accepted, the page, the banner."""
    prelude(scene)
    url = f"https://{name(rng).lower()}.test/"
    shown = f"dialog 'We value your privacy'\n button 'Accept all' [{rng.randint(3, 99)}]"

    def body(_: int) -> None:
        scene.act("goto", {"url": url}, shown)
        scene.act("click", {"text": "Accept all"}, "Clicked; page is loading")

    go_round(scene, 6, 1, body)


@FAMILIES.loop("alternating")
def field_is_required(scene: Scene, rng: random.Random) -> None:
    """Filled in, sent, "is required"; filled in, sent."""
    prelude(scene)
    field, value = name(rng), phrase(rng, 1)

    def body(_: int) -> None:
        scene.act("fill", {"field": field, "value": value}, f"Filled {field}.")
        scene.act("press", {"key": "Enter"}, f"status: The field {field} is required.")

    go_round(scene, 6, 1, body)


@FAMILIES.loop("near_identical")
def contact_sought(scene: Scene, rng: random.Random) -> None:
    """One person sought by parts and spellings of the name."""
    prelude(scene)
    first, last = names(rng, 2)
    forms = [f"{first} {last}", f"{last}, {first}", f"{first[0]}. {last}", f"{first} {last}s", f"{first.lower()} {last.lower()}",
             f"{first}-{last}", f"{last} {first}", f"Dr. {first} {last}", f"{first} {last}."]  # fmt: skip
    rng.shuffle(forms)
    said = rng.choice(("[]", '{"contacts":[]}', "<contacts/>", "0 contacts"))
    go_round(scene, 9, 3, lambda index: scene.act("find_contact", {"name": forms[index]}, said))


@FAMILIES.loop("alternating")
def labelled_and_not(scene: Scene, rng: random.Random) -> None:
    """A label on, the label off."""
    prelude(scene)
    message, label = token(rng, 12), name(rng)

    def body(_: int) -> None:
        scene.act("add_label", {"message": message, "label": label}, '{"ok":true}')
        scene.act("remove_label", {"message": message, "label": label}, '{"ok":true}')

    go_round(scene, 5, 1, body)


@FAMILIES.loop("near_identical")
def translated_again(scene: Scene, rng: random.Random) -> None:
    """One sentence is translated over and over, with other marks at its end."""
    prelude(scene)
    text, answer = phrase(rng, 7), phrase(rng, 9)
    ends = ["", ".", "!", " ", "...", " .", "?", "\n", ";"]
    go_round(scene, 9, 2, lambda index: scene.act("translate", {"text": text + ends[index], "to": "fi"}, answer))


@FAMILIES.loop("near_identical")
def flights_the_same(scene: Scene, rng: random.Random) -> None:
    """The same flights, found with other filters."""
    prelude(scene)
    flights = [f"{token(rng, 2).upper()}{rng.randint(100, 999)} {rng.randint(80, 400)} EUR" for _ in range(3)]
    origin, target = (name(rng, 2).upper() for _ in range(2))
    options = [{}, {"cabin": "economy"}, {"sort": "price"}, {"adults": 1}, {"sort": "duration"}, {"cabin": "any"},
               {"currency": "EUR"}, {"max_stops": 2}, {"nearby": True}]  # fmt: skip
    rng.shuffle(options)

    def body(index: int) -> None:
        rng.shuffle(flights)
        what = {"from": origin, "to": target, "date": "2026-12-20", **options[index]}
        scene.act("search_flights", what, "\n".join(flights))

    go_round(scene, 9, 3, body)


@FAMILIES.loop("stuck_state")
def seat_map_stays(scene: Scene, rng: random.Random) -> None:
    """Seat after seat is chosen, and the map shows none as chosen."""
    prelude(scene)
    shown = f"Seat map {name(rng)}: rows 1-30, selected: (none), hold expires never, {phrase(rng, 4)}"

    def body(_: int) -> None:
        scene.act("choose_seat", {"seat": f"{rng.randint(1, 30)}{rng.choice('ABCDEF')}"}, "Request accepted")
        scene.act("show_seats", {}, shown)

    go_round(scene, 7, 3, body)


# --- work -------------------------------------------------------------------------------------------------------------


@FAMILIES.honest
def invited(scene: Scene, rng: random.Random) -> None:
    """The same invitation to one person after the other."""
    prelude(scene)
    text = phrase(rng, 18)
    for _ in range(rng.randint(7, 12)):
        scene.act(
            "send_email",
            {"to": _address(rng), "subject": "Invitation", "body": text},
            f"Message sent (id {token(rng)})",
        )


@FAMILIES.honest
def inbox(scene: Scene, rng: random.Random) -> None:
    """The inbox by pages, then some of its messages."""
    mark = "start"
    for _ in range(rng.randint(3, 6)):
        after = token(rng, 14)
        heads = [f"{token(rng, 6)}  {_address(rng)}  {phrase(rng, 4)}" for _ in range(3)]
        scene.act("list_messages", {"folder": "INBOX", "after": mark}, "\n".join((*heads, f"more: {after}")))
        mark = after
    for _ in range(rng.randint(3, 5)):
        scene.act("read_message", {"id": token(rng, 6)}, phrase(rng, 25))


@FAMILIES.honest
def archived(scene: Scene, rng: random.Random) -> None:
    """Message after message is put away."""
    prelude(scene)
    said = rng.choice(('{"ok":true}', "", "Archived.", "<ok/>"))
    for _ in range(rng.randint(8, 14)):
        scene.act("archive", {"message": token(rng, 12)}, said)


@FAMILIES.honest
def free_day_sought(scene: Scene, rng: random.Random) -> None:
    """Day after day is full; one is not."""
    prelude(scene)
    who = _address(rng)
    first = rng.randint(1, 20)
    for day in range(first, first + rng.randint(3, 4)):
        scene.act("free_slots", {"of": who, "day": f"2026-12-{day:02}"}, "no free slot")
    scene.act("free_slots", {"of": who, "day": f"2026-12-{first + 5:02}"}, "10:00-11:00, 15:30-16:00")
    scene.act("create_event", {"with": who, "start": f"2026-12-{first + 5:02}T10:00"}, f"event {token(rng)} created")


@FAMILIES.honest
def scrolled(scene: Scene, rng: random.Random) -> None:
    """The same scroll shows other things each time."""
    prelude(scene)
    for _ in range(rng.randint(6, 10)):
        shown = "\n".join(f"article '{phrase(rng, 4)}'" for _ in range(3))
        scene.act("scroll", {"direction": "down", "pixels": 800}, f"header 'Feed'\n{shown}\nfooter")


@FAMILIES.honest
def table_turned(scene: Scene, rng: random.Random) -> None:
    """Next, next, next: the same click, other rows."""
    prelude(scene)
    for page in range(2, rng.randint(7, 11)):
        rows = "\n".join(f"row {phrase(rng, 3)} {rng.randint(1, 999)}" for _ in range(4))
        scene.act("click", {"text": "Next ›"}, f"table '{page} / 12'\n{rows}")


@FAMILIES.honest
def tickets_sorted(scene: Scene, rng: random.Random) -> None:
    """Read one, label it, read the next."""
    for _ in range(rng.randint(5, 8)):
        ticket = rng.randint(1000, 99999)
        scene.act("read_ticket", {"ticket": ticket}, phrase(rng, 14))
        scene.act("add_label", {"ticket": ticket, "label": rng.choice(("bug", "billing", "idea"))}, '{"ok":true}')


@FAMILIES.honest
def days_compared(scene: Scene, rng: random.Random) -> None:
    """One route on many days; some are sold out, some cost the same."""
    prelude(scene)
    for day in range(1, rng.randint(8, 12)):
        said = rng.choice(("sold out", f"from {rng.choice((89, 99, 129))} EUR", f"from {rng.randint(60, 300)} EUR"))
        scene.act("search_flights", {"from": "OSL", "to": "LIS", "date": f"2026-12-{day:02}"}, said)


@FAMILIES.honest
def assistant_of_steps(scene: Scene, rng: random.Random) -> None:
    """A form of many pages: the same button, another page."""
    prelude(scene)
    for page in range(1, rng.randint(5, 8)):
        scene.act("fill", {"field": phrase(rng, 1), "value": phrase(rng, 1)}, "Filled.")
        scene.act("click", {"text": "Continue"}, f"heading 'Step {page + 1}'\ntextbox '{phrase(rng, 2)}'")


@FAMILIES.honest
def twins_merged(scene: Scene, rng: random.Random) -> None:
    """Pair after pair of records made one."""
    prelude(scene)
    for _ in range(rng.randint(7, 11)):
        scene.act("merge_contacts", {"keep": token(rng, 8), "drop": token(rng, 8)}, "merged 2 records into 1")


@FAMILIES.honest
def letters_with_answers(scene: Scene, rng: random.Random) -> None:
    """A talk by mail with one person: a letter, an answer, a letter."""
    who = _address(rng)
    for _ in range(rng.randint(4, 6)):
        scene.act("send_email", {"to": who, "subject": "Re: offer", "body": phrase(rng, 15)}, "Message sent")
        scene.act("wait_for_reply", {"from": who}, f"From {who}: {phrase(rng, 15)}")


@FAMILIES.honest
def sentences_translated(scene: Scene, rng: random.Random) -> None:
    """Sentence after sentence."""
    for _ in range(rng.randint(7, 12)):
        scene.act("translate", {"text": phrase(rng, rng.randint(3, 9)), "to": "fi"}, phrase(rng, rng.randint(3, 9)))


@FAMILIES.honest
def reports_by_person(scene: Scene, rng: random.Random) -> None:
    """A letter to each of a few people, alike but for names and figures, some of them twice on other matters."""
    people = [_address(rng) for _ in range(4)]
    for index in range(8):
        body = f"Dear {people[index % 4].split('@')[0]}, your total for {phrase(rng, 2)} is {rng.randint(10, 999)} EUR."
        what = {"to": people[index % 4], "subject": phrase(rng, 3), "body": body}
        scene.act("send_email", what, json.dumps({"queued": True, "id": token(rng)}))


@FAMILIES.honest
def posts_read(scene: Scene, rng: random.Random) -> None:
    """Search, open the hits, search for something else; some pages are not there any more."""
    for _ in range(3):
        writes = form(rng)
        scene.act("web_search", {"q": phrase(rng, 4)}, "\n".join(writes(record(rng)) for _ in range(3)))
        for index in range(3):
            url = f"https://{name(rng).lower()}.test/{token(rng, 6)}"
            if index == 1:
                scene.act("open_url", {"url": url}, error="HTTP 410 Gone", error_type="HttpError")
            else:
                scene.act("open_url", {"url": url}, phrase(rng, 30))
