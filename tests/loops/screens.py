"""Browsers, search, writers, translators, mail and crews: pages, letters and hand-overs, in ordinary English."""

import json
import random

from loops.family import Families
from loops.made_up import go_round, name, names, phrase, token
from loops.noise import fill, listed
from loops.scene import Scene

FAMILIES = Families()

CITIES = listed("Lisbon Porto Ghent Turin Graz Malmö Tampere Brno Gdańsk Leeds Cork Basel")
THINGS = listed("kettle lamp drill tent jacket router mirror blender ladder helmet")


# --- loops ------------------------------------------------------------------------------------------------------------


@FAMILIES.loop("near_identical")
def button_not_found(scene: Scene, rng: random.Random) -> None:
    """Selectors for one button, none of which is there; the page says how long it waited."""
    label = rng.choice(("Submit", "Continue", "Pay now"))
    selectors = [
        f"button:has-text('{label}')",
        f"text={label}",
        f"//button[contains(., '{label}')]",
        f"[aria-label='{label}']",
        f"input[value='{label}']",
        f"button >> text={label}",
        f"role=button[name='{label}']",
        f"css=button.{label.split()[0].lower()}",
        f"a:has-text('{label}')",
    ]
    scene.act("browser_goto", {"url": f"https://shop.example/{name(rng).lower()}"}, f"Loaded: {phrase(rng, 6)}")
    go_round(
        scene,
        9,
        4,
        lambda i: scene.act(
            "browser_click",
            {"selector": selectors[i]},
            error=f"Timeout 30000ms exceeded.\nCall log:\n  - waiting for locator({selectors[i]!r})\n  - {rng.randint(50, 60)} × retrying",
            error_type="TimeoutError",
        ),
    )


@FAMILIES.loop("identical")
def are_you_human(scene: Scene, rng: random.Random) -> None:
    """The same address, always the page that asks for a proof; its tokens are new each time."""
    url = f"https://www.example.com/products/{rng.randint(1000, 9999)}"
    go_round(
        scene,
        8,
        3,
        lambda _: scene.act(
            "navigate",
            {"url": url},
            f"<title>Just a moment...</title><p>Checking that you are human. This may take a few seconds.</p><p>Ray ID: {token(rng, 16)}</p><input name=csrf value={fill('<hex>', rng)}>",
        ),
    )


@FAMILIES.loop("identical")
def bottom_reached(scene: Scene, rng: random.Random) -> None:
    """Scrolled down where there is no further down."""
    view = phrase(rng, 18)
    scene.act("scroll", {"direction": "down"}, f"{phrase(rng, 18)} (scroll 900/2700)")
    go_round(
        scene,
        8,
        3,
        lambda _: scene.act("scroll", {"direction": "down"}, f"{view} (scroll 2700/2700)"),
    )


@FAMILIES.loop("alternating")
def signed_in_and_out(scene: Scene, rng: random.Random) -> None:
    """Name, password, button, and the page for signing in again; each with a session of its own."""
    user = name(rng).lower()

    def body(_: int) -> None:
        scene.act("type_text", {"field": "username", "text": user}, "typed")
        scene.act("type_text", {"field": "password", "text": "********"}, "typed")
        scene.act("click", {"element": "Sign in"}, "clicked")
        scene.act(
            "read_page",
            {},
            f"Sign in to continue\nurl: https://portal.example/login?next=%2Fhome&sid={fill('<hex>', rng)}",
        )

    go_round(scene, 5, 1, body)


@FAMILIES.loop("near_identical")
def same_hits_for_other_words(scene: Scene, rng: random.Random) -> None:
    """A search said in other words, with the same three hits."""
    subject = name(rng)
    hits = "\n".join(f"{n}. {phrase(rng, 6)} - https://{name(rng).lower()}.example/{n}" for n in (1, 2, 3))
    asked = [
        f"{subject} annual report 2025",
        f"annual report 2025 {subject}",
        f"{subject} annual report 2025 pdf",
        f"{subject} 2025 annual report download",
        f"annual report of {subject} for 2025",
        f"{subject} annual reports 2025",
        f"{subject} report annual 2025 official",
        f"the {subject} annual report 2025",
        f"{subject} annual report year 2025",
    ]
    go_round(
        scene,
        9,
        3,
        lambda i: scene.act(
            "web_search", {"q": asked[i]}, f"{hits}\n(about 3 results, {rng.uniform(0.2, 0.9):.2f} seconds)"
        ),
    )


@FAMILIES.loop("near_identical")
def nobody_answers(scene: Scene, rng: random.Random) -> None:
    """A person is asked the same in other words, and does not answer."""
    thing = rng.choice(THINGS)
    asked = [
        f"Which colour should the {thing} have, please?",
        f"Could you tell me which colour the {thing} should have, please?",
        f"Please tell me which colour the {thing} should have.",
        f"Which colour should the {thing} have?",
        f"I still need to know: which colour should the {thing} have, please?",
        f"Which colour do you want the {thing} to have, please?",
        f"Just checking: which colour should the {thing} have?",
        f"Please say which colour the {thing} should have.",
        f"Again: which colour should the {thing} have, please?",
    ]
    go_round(scene, 9, 3, lambda i: scene.act("ask_user", {"question": asked[i]}, "(no response within 60 seconds)"))


@FAMILIES.loop("stuck_state")
def screen_does_not_move(scene: Scene, rng: random.Random) -> None:
    """Clicks here and there, and always the same dialogue with a clock in the corner."""
    title = phrase(rng, 4)

    def body(_: int) -> None:
        scene.act("mouse_click", {"x": rng.randint(10, 1900), "y": rng.randint(10, 1000)}, "clicked")
        scene.act(
            "screenshot",
            {},
            f"A dialogue with the title '{title}' covers the window. Its buttons are grey. Clock at the lower right: {rng.randint(10, 23)}:{rng.randint(10, 59)}",
        )

    go_round(scene, 8, 3, body)


@FAMILIES.loop("identical")
def noted_again(scene: Scene, rng: random.Random) -> None:
    """The same note is kept under a new number each time."""
    what = {"note": f"{name(rng)} prefers {rng.choice(THINGS)}s in blue", "tags": ["preference"]}
    number = rng.randint(100, 900)

    def body(_: int) -> None:
        nonlocal number
        number += 1
        scene.act("memory_store", what, f"Memory #{number} stored at {fill('<iso>', rng)}.")

    go_round(scene, 7, 2, body)


@FAMILIES.loop("ping_pong")
def du_or_sie(scene: Scene, rng: random.Random) -> None:
    """Translator and editor send one paragraph to each other."""
    about = phrase(rng, 6)

    def body(_: int) -> None:
        scene.act(
            "hand_off",
            {"to": "editor", "instruction": f"Please check the paragraph about {about}. It says du now."},
            "",
            role="translator",
            step="t",
        )
        scene.act(
            "hand_off",
            {"to": "translator", "instruction": f"Please change the paragraph about {about}. It should say Sie."},
            "",
            role="editor",
            step="e",
        )

    go_round(scene, 4, 1, body)


@FAMILIES.loop("ping_pong")
def not_my_department(scene: Scene, rng: random.Random) -> None:
    """Three desks pass a complaint round, each with a time and a reference of its own."""
    case = f"complaint of {name(rng)} about a {rng.choice(THINGS)}"
    desks = ("sales", "billing", "support")

    def body(_: int) -> None:
        for place, desk in enumerate(desks):
            taker = desks[(place + 1) % 3]
            scene.act(
                "transfer_to_" + taker,
                {"summary": f"The {case} belongs to {taker}.", "ref": token(rng, 8)},
                fill("transferred at <time>", rng),
                role=desk,
                step=desk,
            )

    go_round(scene, 4, 1, body)


@FAMILIES.loop("ping_pong")
def more_detail_please(scene: Scene, rng: random.Random) -> None:
    """A manager asks for the report, the analyst asks which; in slightly other words."""
    topic = phrase(rng, 5)
    asks = (
        "Please deliver the report on",
        "Deliver the report on",
        "Please deliver now the report on",
        "We need the report on",
        "Deliver please the report on",
    )
    replies = (
        "Which period should it cover:",
        "Which period shall it cover:",
        "Please say which period it should cover:",
        "It should cover which period:",
        "Which period is it to cover:",
    )

    def body(index: int) -> None:
        scene.act("delegate", {"to": "analyst", "instruction": f"{asks[index]} {topic}"}, "", role="manager", step="m")
        scene.act(
            "delegate", {"to": "manager", "instruction": f"{replies[index]} {topic}"}, "", role="analyst", step="n"
        )

    go_round(scene, 5, 1, body)


@FAMILIES.loop("near_identical")
def mail_never_comes(scene: Scene, rng: random.Random) -> None:
    """A mailbox is searched for a message that does not come."""
    who = f"{name(rng).lower()}@example.org"
    forms = [
        f"from:{who}",
        f"from:{who} newer_than:1d",
        f"from: {who}",
        f"from:{who} in:anywhere",
        f"from:({who})",
        f"from:{who} is:unread",
        f"from:{who} in:inbox",
        f"from:{who}",
        f"from:{who} newer_than:2d",
    ]
    go_round(
        scene,
        9,
        3,
        lambda i: scene.act(
            "mail_search",
            {"query": forms[i], "max": 10},
            json.dumps({"resultSizeEstimate": 0, "messages": [], "historyId": str(rng.randint(10**6, 10**7))}),
        ),
    )


@FAMILIES.loop("stuck_state")
def paragraph_polished(scene: Scene, rng: random.Random) -> None:
    """A score that swings between two values, whatever is written."""
    scores = rng.sample(range(60, 80), 2)

    def body(index: int) -> None:
        scene.act("write_draft", {"text": phrase(rng, 20)}, "Draft saved.")
        scene.act(
            "score_readability",
            {"doc": "draft"},
            f"Readability {scores[index % 2]} of 100. Below the wanted 85: sentences too long.",
        )

    go_round(scene, 10, 5, body)


@FAMILIES.loop("alternating")
def basket_filled_and_emptied(scene: Scene, rng: random.Random) -> None:
    """Added, seen to be too dear, removed, seen to be too little."""
    thing = rng.choice(THINGS)

    def body(_: int) -> None:
        scene.act("add_to_basket", {"item": thing, "qty": 1}, json.dumps({"basket": token(rng, 8), "total": 62.5}))
        scene.act("check_coupon", {}, "Your total of 62.50 is above the limit of 60.00.")
        scene.act("remove_from_basket", {"item": thing}, json.dumps({"basket": token(rng, 8), "total": 12.5}))
        scene.act("check_coupon", {}, "Your total of 12.50 is below the least order of 20.00.")

    go_round(scene, 5, 1, body)


# --- work -------------------------------------------------------------------------------------------------------------


@FAMILIES.honest
def form_filled_in(scene: Scene, rng: random.Random) -> None:
    """Many fields on several pages, each typed, and the button in between."""
    for page in range(3):
        for field in rng.sample(listed("name street town zip phone mail birthday country company vat"), 5):
            scene.act("fill", {"ref": f"e{rng.randint(1, 99)}", "field": field, "value": name(rng)}, "ok")
        scene.act("click", {"element": "Next"}, f"Page {page + 2} of 4")


@FAMILIES.honest
def shops_compared(scene: Scene, rng: random.Random) -> None:
    """One product in many shops; in most of them it is sold out."""
    thing = rng.choice(THINGS)
    for shop in names(rng, 9):
        scene.act(
            "open_url",
            {"url": f"https://{shop.lower()}.example/p/{thing}"},
            f"{thing} - {rng.choice(('Out of stock', 'Out of stock', f'{rng.randint(20, 90)}.99 EUR, in stock'))}",
        )


@FAMILIES.honest
def sentences_put_into_danish(scene: Scene, rng: random.Random) -> None:
    """Sentence by sentence, kept with the same word each time."""
    for number in range(rng.randint(9, 13)):
        scene.act("set_translation", {"unit": number + 1, "lang": "da", "text": phrase(rng, 8)}, "saved")


@FAMILIES.honest
def code_comes_by_mail(scene: Scene, rng: random.Random) -> None:
    """An inbox that is empty for three looks, until the code is there."""
    scene.act("click", {"element": "Send me a code"}, "A code was sent.")
    for _ in range(rng.randint(2, 3)):
        scene.act("inbox", {"unread": True}, "No new messages.")
        scene.act("wait", {"seconds": rng.choice((5, 10, 15))}, "")
    scene.act("inbox", {"unread": True}, f"1 new message: your code is {rng.randint(100000, 999999)}")
    scene.act("type_text", {"field": "code", "text": "......"}, "typed")


@FAMILIES.honest
def reviewed_three_times(scene: Scene, rng: random.Random) -> None:
    """A review that finds other things each time, and code that changes for them."""
    for _ in range(3):
        for _ in range(2):
            path = f"src/{name(rng).lower()}.py"
            scene.act("edit", {"path": path, "text": phrase(rng, 10)}, f"edited {path}", step="c")
        scene.act(
            "hand_off", {"to": "reviewer", "instruction": f"Done: {phrase(rng, 7)}. Please review."}, "", step="c"
        )
        scene.act("read_diff", {"base": "main"}, f"+{phrase(rng, 12)}", role="reviewer", step="r")
        scene.act(
            "hand_off", {"to": "coder", "instruction": f"Two remarks: {phrase(rng, 12)}"}, "", role="reviewer", step="r"
        )
    scene.act("finish", {"summary": phrase(rng, 5)}, "ok", step="c")


@FAMILIES.honest
def questions_to_one_colleague(scene: Scene, rng: random.Random) -> None:
    """A lead asks one researcher about several matters, and gets an answer to each."""
    for _ in range(5):
        about = phrase(rng, 6)
        scene.act(
            "delegate",
            {"to": "researcher", "instruction": f"Find out: {about}"},
            f"{about}: {phrase(rng, 15)}",
            role="lead",
        )
        scene.act("write_section", {"title": about, "text": phrase(rng, 20)}, "Section written.", role="lead")


@FAMILIES.honest
def trains_from_city_to_city(scene: Scene, rng: random.Random) -> None:
    """Connections between many places, most of which have none on the day."""
    home = rng.choice(CITIES)
    for city in rng.sample([city for city in CITIES if city != home], 9):
        scene.act(
            "find_trains",
            {"from": home, "to": city, "date": "2026-12-24"},
            rng.choice(
                (
                    "No connections found for this date.",
                    "No connections found for this date.",
                    f"{rng.randint(6, 20)}:05 - {rng.randint(1, 9)} changes - {rng.randint(30, 200)} EUR",
                )
            ),
        )


@FAMILIES.honest
def grid_walked(scene: Scene, rng: random.Random) -> None:
    """A robot goes step by step; the same command, another place each time."""
    x, y = rng.randint(0, 5), rng.randint(0, 5)
    for _ in range(rng.randint(8, 12)):
        way = rng.choice(("east", "east", "north"))
        x, y = x + (way == "east"), y + (way == "north")
        scene.act("move", {"direction": way}, f"moved. position: ({x}, {y}), battery {100 - 2 * (x + y)}%")


@FAMILIES.honest
def parts_uploaded(scene: Scene, rng: random.Random) -> None:
    """Part after part, each acknowledged with its checksum."""
    upload = token(rng, 12)
    total = rng.randint(8, 12)
    for part in range(1, total + 1):
        scene.act(
            "upload_part", {"upload": upload, "part": part}, json.dumps({"ETag": fill("<hex>", rng), "part": part})
        )
    scene.act("complete_upload", {"upload": upload}, json.dumps({"location": f"s3://bucket/{token(rng, 6)}"}))


@FAMILIES.honest
def site_crawled(scene: Scene, rng: random.Random) -> None:
    """Pages of a site, a good part of which is gone."""
    for _ in range(12):
        path = f"/{name(rng).lower()}/{name(rng).lower()}"
        gone = rng.random() < 0.5
        if gone:
            scene.act(
                "fetch",
                {"url": f"https://old.example.net{path}"},
                error="404 Not Found: the page does not exist",
                error_type="HTTPError",
            )
        else:
            scene.act(
                "fetch", {"url": f"https://old.example.net{path}"}, f"<h1>{phrase(rng, 3)}</h1><p>{phrase(rng, 30)}</p>"
            )


@FAMILIES.honest
def invited_one_by_one(scene: Scene, rng: random.Random) -> None:
    """The same letter to many people."""
    text = phrase(rng, 14)
    for who in names(rng, 8):
        scene.act(
            "send_mail",
            {"to": f"{who.lower()}@example.com", "subject": "Invitation", "body": f"Dear {who}, {text}"},
            f"Message sent (id {token(rng, 12)})",
        )


@FAMILIES.honest
def draft_gets_better(scene: Scene, rng: random.Random) -> None:
    """Written, scored, written: the score grows, with a step back now and then."""
    score = rng.randint(50, 60)
    for _ in range(7):
        score += rng.choice((2, 4, 6, -1))
        scene.act("write_draft", {"text": phrase(rng, 20)}, "Draft saved.")
        scene.act("score_readability", {"doc": "draft"}, f"Readability {score} of 100.")


@FAMILIES.honest
def tabs_by_turns(scene: Scene, rng: random.Random) -> None:
    """Figures carried from a mail to a sheet: two windows by turns, another line each time."""
    for line in range(2, 8):
        scene.act("focus_window", {"title": "Inbox"}, "focused")
        scene.act("copy_line", {"line": line}, f"{name(rng)}; {rng.randint(10, 900)}.00")
        scene.act("focus_window", {"title": "Budget.xlsx"}, "focused")
        scene.act("paste_into", {"cell": f"B{line}"}, "pasted")
