"""Agents that handle money, tables and models."""

import json
import random

from loops.family import Families
from loops.made_up import form, go_round, name, names, phrase, prelude, record, token
from loops.noise import fill
from loops.scene import Scene

FAMILIES = Families()


# --- loops ------------------------------------------------------------------------------------------------------------


@FAMILIES.loop("identical")
def declined_again(scene: Scene, rng: random.Random) -> None:
    """One card is charged over and over with a new idempotency key, and declined."""
    prelude(scene)
    card, amount, writes = f"tok_{token(rng, 6)}", rng.randint(500, 9000), form(rng)

    def body(_: int) -> None:
        answer = {"status": "declined", "decline_code": "insufficient_funds", "charge_id": f"ch_{token(rng)}"}
        arguments = {"source": card, "amount": amount, "currency": "eur", "idempotency_key": fill("<uuid>", rng)}
        scene.act("create_charge", arguments, writes(answer))

    go_round(scene, 7, 2, body)


@FAMILIES.loop("near_identical")
def invoice_sought(scene: Scene, rng: random.Random) -> None:
    """One invoice is sought by its number in many spellings."""
    prelude(scene)
    digits, who = rng.randint(10000, 99999), name(rng)
    forms = [f"INV-{digits}", f"INV{digits}", f"inv {digits}", f"{digits}", f"INV-{digits} {who}", f"Invoice {digits}",
             f"INV/{digits}", f"#{digits}", f"invoice no. {digits}"]  # fmt: skip
    rng.shuffle(forms)
    said = rng.choice(('{"invoices": [], "total": 0}', "<invoices count='0'/>", "No invoice matches."))
    go_round(scene, 9, 3, lambda index: scene.act("search_invoices", {"text": forms[index]}, said))


@FAMILIES.loop("near_identical")
def statement_indented(scene: Scene, rng: random.Random) -> None:
    """The same statement with other blanks and capitals; the same syntax error, somewhere else in the line."""
    prelude(scene)
    table = name(rng).lower()

    def body(index: int) -> None:
        words = f"select sum ( amount ) form {table} group by day".split()
        text = rng.choice((" ", "\n", "  ", "\n  ")).join(words)
        text = text if index % 2 else text.upper()
        said = f'ERROR: syntax error at or near "form" at character {rng.randint(20, 30)}'
        scene.act("run_statement", {"statement": text + ";" * (index % 2)}, error=said, error_type="ProgrammingError")

    go_round(scene, 8, 2, body)


@FAMILIES.loop("alternating")
def explained_and_run(scene: Scene, rng: random.Random) -> None:
    """The plan of a query and the query, by turns; neither changes."""
    prelude(scene)
    query = f"SELECT * FROM {name(rng).lower()} WHERE {name(rng).lower()} = {rng.randint(1, 99)}"
    plan = f"Seq Scan on t  (cost=0.00..{rng.randint(100, 999)}.00 rows={rng.randint(1, 99)} width=36)"

    def body(_: int) -> None:
        scene.act("explain", {"query": query}, plan)
        said = fill("canceling statement due to statement timeout (pid <pid>, after 30000 ms)", rng)
        scene.act("run_query", {"query": query}, error=said, error_type="QueryCanceled")

    go_round(scene, 5, 1, body)


@FAMILIES.loop("alternating")
def kernel_dies(scene: Scene, rng: random.Random) -> None:
    """The cell kills the kernel, the kernel is started, the cell is run."""
    prelude(scene)
    cell = f"df = pd.read_parquet('{name(rng).lower()}.parquet'); df.merge(df, how='cross')"

    def body(_: int) -> None:
        said = fill("Kernel died unexpectedly (exit signal 9, session <uuid>)", rng)
        scene.act("run_cell", {"cell": 12, "source": cell}, error=said, error_type="DeadKernelError")
        scene.act("restart_kernel", {}, fill("Kernel started: <uuid>", rng))

    go_round(scene, 5, 1, body)


@FAMILIES.loop("near_identical")
def loss_is_not_a_number(scene: Scene, rng: random.Random) -> None:
    """Another learning rate each time, and the loss is nan each time."""
    prelude(scene)
    model = name(rng).lower()
    rates = [0.1, 0.05, 0.01, 0.005, 0.001, 0.0005, 0.0001, 0.00005, 0.00001, 0.3]
    said = "epoch 1/3 loss=nan val_loss=nan\nepoch 2/3 loss=nan val_loss=nan\nepoch 3/3 loss=nan val_loss=nan"

    def body(index: int) -> None:
        scene.act("train", {"model": model, "learning_rate": rates[index], "epochs": 3}, said)

    go_round(scene, 10, 4, body)


@FAMILIES.loop("near_identical")
def encodings_guessed(scene: Scene, rng: random.Random) -> None:
    """One file is read in one encoding after the other, and is refused for the same line."""
    prelude(scene)
    path, line = f"/data/{name(rng).lower()}.csv", rng.randint(20, 900)
    codes = ["utf-8", "latin-1", "cp1252", "utf-16", "ascii", "iso-8859-15", "utf-8-sig", "cp437", "mac_roman"]
    rng.shuffle(codes)
    said = f"ParserError: Error tokenizing data. C error: Expected 12 fields in line {line}, saw 13"
    go_round(
        scene, 9, 3, lambda i: scene.act("read_csv", {"path": path, "encoding": codes[i]}, error=said, error_type="")
    )


@FAMILIES.loop("identical")
def balance_again(scene: Scene, rng: random.Random) -> None:
    """The balance of one account, over and over."""
    prelude(scene)
    account, writes = f"DE{rng.randint(10**9, 10**10)}", form(rng)
    balance = rng.randint(100, 99999) / 100

    def body(_: int) -> None:
        scene.act("get_balance", {"account": account}, writes({"balance": balance, "as_of": fill("<iso>", rng)}))

    go_round(scene, 8, 2, body)


@FAMILIES.loop("stuck_state")
def difference_stays(scene: Scene, rng: random.Random) -> None:
    """Booking after booking, and the difference is the same each time."""
    prelude(scene)
    difference = f"Unreconciled difference: {rng.randint(100, 9999) / 100} EUR in 1 item ({name(rng)})"

    def body(_: int) -> None:
        booking = {"debit": rng.randint(1000, 1999), "credit": rng.randint(3000, 3999), "text": phrase(rng, 3)}
        scene.act("post_adjustment", booking, f"posted as {rng.randint(10000, 99999)}")
        scene.act("reconcile", {"period": "2026-10"}, difference)

    go_round(scene, 7, 3, body)


@FAMILIES.loop("alternating")
def there_and_back_again(scene: Scene, rng: random.Random) -> None:
    """Reserved, released, reserved, released."""
    prelude(scene)
    sku, amount = token(rng, 6).upper(), rng.randint(2, 60)

    def body(_: int) -> None:
        scene.act("reserve_stock", {"sku": sku, "count": amount}, json.dumps({"available": 100 - amount}))
        scene.act("release_stock", {"sku": sku, "count": amount}, json.dumps({"available": 100}))

    go_round(scene, 5, 1, body)


@FAMILIES.loop("identical")
def refund_never_comes(scene: Scene, rng: random.Random) -> None:
    """A refund that is looked at again and again, with waits in between."""
    prelude(scene)
    refund, writes = f"re_{token(rng, 8)}", form(rng)

    def body(_: int) -> None:
        scene.act(
            "get_refund",
            {"id": refund},
            writes({"id": refund, "state": "requires_action", "retrieved_at": fill("<iso>", rng)}),
        )
        scene.act("sleep", {"seconds": 10}, "")

    go_round(scene, 8, 3, body)


@FAMILIES.loop("stuck_state")
def ledger_is_closed(scene: Scene, rng: random.Random) -> None:
    """Bookings of all kinds into a period that is closed."""
    prelude(scene)
    said = "Period 2026-09 is closed for posting; ask the controller to reopen it."

    def body(_: int) -> None:
        tool = rng.choice(("post_adjustment", "post_accrual", "reverse_entry", "import_entry"))
        arguments = {"period": "2026-09", "amount": rng.randint(1, 999), "memo": phrase(rng, 2)}
        scene.act(tool, arguments, json.dumps({"accepted": 0, "message": said}))

    go_round(scene, 10, 3, body)


# --- work -------------------------------------------------------------------------------------------------------------


@FAMILIES.honest
def customers_charged(scene: Scene, rng: random.Random) -> None:
    """The same fee from one customer after the other."""
    prelude(scene)
    writes = form(rng)
    for _ in range(rng.randint(8, 12)):
        answer = {"status": rng.choice(("succeeded",) * 5 + ("declined",)), "charge_id": f"ch_{token(rng)}"}
        scene.act(
            "create_charge", {"customer": f"cus_{token(rng, 8)}", "amount": 900, "currency": "eur"}, writes(answer)
        )


@FAMILIES.honest
def charged_at_the_third(scene: Scene, rng: random.Random) -> None:
    """The gateway times out once or twice, the same key is sent again, it goes through; for a few."""
    for _ in range(3):
        what = {
            "customer": f"cus_{token(rng, 8)}",
            "amount": rng.randint(100, 900),
            "idempotency_key": fill("<uuid>", rng),
        }
        for index in range(rng.randint(0, 2)):
            scene.act(
                "create_charge", what, error="504 Gateway Timeout: upstream did not answer", error_type="HttpError"
            )
            scene.act("sleep", {"seconds": 2**index}, "")
        scene.act("create_charge", what, json.dumps({"status": "succeeded", "id": f"ch_{token(rng)}"}))
        scene.act("send_receipt", {"to": f"{name(rng).lower()}@mail.test"}, "queued")


@FAMILIES.honest
def rows_by_key(scene: Scene, rng: random.Random) -> None:
    """A large table, read by the last key."""
    prelude(scene)
    last, writes = 0, form(rng)
    for _ in range(rng.randint(6, 10)):
        query = f"SELECT * FROM movements WHERE id > {last} ORDER BY id LIMIT 3"
        rows = [{"id": last + step, **record(rng)} for step in (1, 2, 3)]
        scene.act("run_query", {"query": query}, "\n".join(writes(row) for row in rows))
        last += 3


@FAMILIES.honest
def loss_falls(scene: Scene, rng: random.Random) -> None:
    """A training watched: epoch after epoch, the loss a little lower."""
    prelude(scene)
    loss = rng.uniform(2, 4)
    for epoch in range(1, rng.randint(7, 11)):
        loss *= rng.uniform(0.9, 0.999)
        scene.act("training_status", {"run": "r7"}, f"epoch {epoch} loss={loss:.4f}")


@FAMILIES.honest
def grid_searched(scene: Scene, rng: random.Random) -> None:
    """Point after point of a grid; scores that lie close, some of them equal."""
    prelude(scene)
    for depth in (2, 4, 8):
        for rate in (0.1, 0.03, 0.01):
            score = rng.choice((0.81, 0.82, 0.83, 0.84))
            scene.act(
                "evaluate", {"depth": depth, "rate": rate}, json.dumps({"auc": score, "seconds": rng.uniform(1, 9)})
            )


@FAMILIES.honest
def columns_profiled(scene: Scene, rng: random.Random) -> None:
    """Column after column; most have no nulls."""
    prelude(scene)
    writes = form(rng)
    for column in names(rng, rng.randint(8, 12)):
        nulls = rng.choice((0, 0, 0, 0, 17))
        scene.act(
            "profile_column",
            {"table": "t", "column": column.lower()},
            writes({"nulls": nulls, "distinct": rng.randint(1, 4)}),
        )


@FAMILIES.honest
def difference_shrinks(scene: Scene, rng: random.Random) -> None:
    """Booking after booking; the difference gets smaller, now and then it stays."""
    prelude(scene)
    open_items, stays = rng.randint(12, 25), 0
    while open_items > 0:
        scene.act(
            "post_adjustment", {"text": phrase(rng, 3), "amount": rng.randint(1, 999)}, f"posted as {token(rng, 6)}"
        )
        scene.act("reconcile", {"period": "2026-10"}, f"{open_items} items unreconciled")
        # Three times the same is still a rest; with a fourth a person would begin to ask.
        stays = stays + 1 if stays < 2 and rng.random() < 0.3 else 0
        open_items -= 0 if stays else rng.choice((2, 3, 5))
        if len(scene.calls) > 24:
            break


@FAMILIES.honest
def parts_imported(scene: Scene, rng: random.Random) -> None:
    """Part after part of one file; each says how many rows went in."""
    prelude(scene)
    path = f"s3://{name(rng).lower()}/all.parquet"
    for part in range(rng.randint(7, 12)):
        scene.act("import_rows", {"path": path, "offset": part * 500, "count": 500}, "inserted 500 rows")


@FAMILIES.honest
def refunds_of_a_list(scene: Scene, rng: random.Random) -> None:
    """Refund after refund; some were made before."""
    prelude(scene)
    for index in range(rng.randint(8, 12)):
        charge = f"ch_{token(rng)}"
        if index % 4 in (1, 2):
            said = f"Charge {charge} has already been refunded."
            scene.act("refund", {"charge": charge}, error=said, error_type="InvalidRequest")
        else:
            scene.act("refund", {"charge": charge}, json.dumps({"refund": f"re_{token(rng)}", "status": "pending"}))


@FAMILIES.honest
def transfer_goes_through(scene: Scene, rng: random.Random) -> None:
    """A transfer and its states, each of which may be seen more than once."""
    prelude(scene)
    writes = form(rng)
    for state in ("received", "screening", "submitted", "clearing", "settled"):
        for _ in range(rng.randint(1, 2)):
            scene.act("get_transfer", {"id": "tr_1"}, writes({"state": state, "checked_at": fill("<iso>", rng)}))
            scene.act("sleep", {"seconds": 30}, "")


@FAMILIES.honest
def statement_mended(scene: Scene, rng: random.Random) -> None:
    """A statement whose errors are mended one by one."""
    prelude(scene)
    query = "SELECT a FROM t"
    for column in names(rng, rng.randint(4, 6)):
        said = f'column "{column.lower()}" must appear in the GROUP BY clause'
        scene.act("run_query", {"query": query}, error=said, error_type="ProgrammingError")
        query += f" GROUP BY {column.lower()}" if "GROUP" not in query else f", {column.lower()}"
    scene.act("run_query", {"query": query}, "\n".join(phrase(rng, 4) for _ in range(3)))


@FAMILIES.honest
def rates_fetched(scene: Scene, rng: random.Random) -> None:
    """Pair after pair of currencies."""
    prelude(scene)
    for code in ("USD", "GBP", "CHF", "SEK", "NOK", "PLN", "CZK", "DKK"):
        rate = {"base": "EUR", "quote": code, "rate": round(rng.uniform(0.5, 25), 4)}
        scene.act("get_rate", {"base": "EUR", "quote": code}, json.dumps(rate))


@FAMILIES.honest
def cells_run(scene: Scene, rng: random.Random) -> None:
    """A notebook run cell by cell; many print nothing."""
    prelude(scene)
    for cell in range(1, rng.randint(8, 13)):
        said = rng.choice(("", "", "None", phrase(rng, 6)))
        scene.act(
            "run_cell", {"cell": cell, "source": f"{name(rng).lower()} = {phrase(rng, 2).replace(' ', '.')}()"}, said
        )
