"""Answers in other languages than English; what is said counts, and not in which tongue."""

import random

from loops.family import Families
from loops.made_up import form, go_round, name, names, phrase, prelude, record, token
from loops.noise import fill
from loops.scene import Scene

FAMILIES = Families()

# What a service says in each language: refused, nothing found, stored, being worked on, done, come again, wrong.
TONGUES: tuple[dict[str, str], ...] = (
    {
        "refused": "Zugriff verweigert: Für diesen Vorgang fehlt die Berechtigung.",
        "nothing": "Keine Treffer.",
        "stored": "Gespeichert.",
        "working": "In Bearbeitung, Stand <iso>",
        "done": "Fertig",
        "later": "Dienst überlastet, bitte versuchen Sie es später erneut.",
        "wrong": "Benutzername oder Kennwort falsch.",
        "unknown": "Kunde »{}« wurde nicht gefunden.",
        "request": "Bitte prüfe die Rechnung von {} und gib sie zurück.",
    },
    {
        "refused": "Acceso denegado: no tiene permiso para esta operación.",
        "nothing": "No se encontraron resultados.",
        "stored": "Guardado correctamente.",
        "working": "En curso (<iso>)",
        "done": "Terminado",
        "later": "Servicio saturado, inténtelo de nuevo más tarde.",
        "wrong": "Usuario o contraseña incorrectos.",
        "unknown": "El cliente «{}» no existe.",
        "request": "Por favor revisa la factura de {} y devuélvela.",
    },
    {
        "refused": "Accès refusé : vous n'avez pas l'autorisation nécessaire.",
        "nothing": "Aucun résultat.",
        "stored": "Enregistré.",
        "working": "Traitement en cours — <iso>",
        "done": "Terminé",
        "later": "Service surchargé, veuillez réessayer plus tard.",
        "wrong": "Identifiant ou mot de passe incorrect.",
        "unknown": "Le client « {} » est introuvable.",
        "request": "Merci de vérifier la facture de {} et de la rendre.",
    },
    {
        "refused": "アクセスが拒否されました。この操作を行う権限がありません。",
        "nothing": "該当する結果はありません。",
        "stored": "保存しました。",
        "working": "処理中 <iso>",
        "done": "完了",
        "later": "サーバーが混雑しています。しばらくしてからもう一度お試しください。",
        "wrong": "ユーザー名またはパスワードが違います。",
        "unknown": "顧客「{}」が見つかりません。",
        "request": "{} の請求書を確認して戻してください。",
    },
    {
        "refused": "Доступ запрещён: недостаточно прав для этой операции.",
        "nothing": "Ничего не найдено.",
        "stored": "Сохранено.",
        "working": "Выполняется, <iso>",
        "done": "Готово",
        "later": "Сервис перегружен, повторите попытку позже.",
        "wrong": "Неверное имя пользователя или пароль.",
        "unknown": "Клиент «{}» не найден.",
        "request": "Проверьте счёт {} и верните его.",
    },
    {
        "refused": "Odmowa dostępu: brak uprawnień do tej operacji.",
        "nothing": "Brak wyników.",
        "stored": "Zapisano.",
        "working": "W trakcie, <iso>",
        "done": "Zakończono",
        "later": "Usługa przeciążona, spróbuj ponownie później.",
        "wrong": "Nieprawidłowa nazwa użytkownika lub hasło.",
        "unknown": "Nie znaleziono klienta „{}”.",
        "request": "Sprawdź fakturę {} i odeślij ją.",
    },
    {
        "refused": "拒绝访问：您没有执行此操作的权限。",
        "nothing": "没有找到结果。",
        "stored": "已保存。",
        "working": "处理中 <iso>",
        "done": "已完成",
        "later": "服务繁忙，请稍后再试。",
        "wrong": "用户名或密码错误。",
        "unknown": "找不到客户“{}”。",
        "request": "请检查 {} 的发票并退回。",
    },
    {
        "refused": "Erişim engellendi: bu işlem için yetkiniz yok.",
        "nothing": "Sonuç bulunamadı.",
        "stored": "Kaydedildi.",
        "working": "İşleniyor, <iso>",
        "done": "Tamamlandı",
        "later": "Servis meşgul, lütfen daha sonra tekrar deneyin.",
        "wrong": "Kullanıcı adı veya parola hatalı.",
        "unknown": "“{}” adlı müşteri bulunamadı.",
        "request": "Lütfen {} faturasını kontrol edip geri gönder.",
    },
)  # fmt: skip


def tongue(rng: random.Random) -> dict[str, str]:
    """One of the languages."""
    return rng.choice(TONGUES)


# --- loops ------------------------------------------------------------------------------------------------------------


@FAMILIES.loop("identical")
def refused_abroad(scene: Scene, rng: random.Random) -> None:
    """The same request, refused in the same words."""
    prelude(scene)
    said, what = tongue(rng)["refused"], {"akte": token(rng, 6)}
    as_error = rng.random() < 0.5

    def body(_: int) -> None:
        if as_error:
            scene.act("open_file", what, error=said, error_type="ServiceError")
        else:
            scene.act("open_file", what, said)

    go_round(scene, 8, 2, body)


@FAMILIES.loop("near_identical")
def nothing_abroad(scene: Scene, rng: random.Random) -> None:
    """A search in other words, and nothing each time."""
    prelude(scene)
    said, words = tongue(rng)["nothing"], phrase(rng, 3)
    one, two, three = words.split()
    queries = [
        words, f"{two} {one} {three}", f"{one} {two} {three}s", f'"{words}"', f"{three}, {one} {two}", f"{words} 2026",
        f"{one}n {two} {three}", f"{two} {three} {one}?", f"{words}e",
    ]  # fmt: skip
    go_round(scene, 9, 3, lambda index: scene.act("recherche", {"texte": queries[index]}, said))


@FAMILIES.loop("alternating")
def login_abroad(scene: Scene, rng: random.Random) -> None:
    """The name, the password, the button; refused; again."""
    prelude(scene)
    said = tongue(rng)
    user = name(rng)

    def body(_: int) -> None:
        scene.act("champ", {"id": "u", "v": user}, said["stored"])
        scene.act("champ", {"id": "p", "v": user[::-1]}, said["stored"])
        scene.act("bouton", {"id": "go"}, said["wrong"])

    go_round(scene, 5, 1, body)


@FAMILIES.loop("stuck_state")
def wall_abroad(scene: Scene, rng: random.Random) -> None:
    """Whatever is asked of whatever tool, the same refusal."""
    prelude(scene)
    said = tongue(rng)["refused"]
    tools = names(rng, 5)

    def body(_: int) -> None:
        scene.act(rng.choice(tools), {"quoi": phrase(rng, 2)}, error=said, error_type="ServiceError")

    go_round(scene, 10, 3, body)


@FAMILIES.loop("identical")
def never_done_abroad(scene: Scene, rng: random.Random) -> None:
    """Being worked on for ever; only the clock in the answer moves."""
    prelude(scene)
    said, job = tongue(rng)["working"], {"auftrag": token(rng, 7)}
    go_round(scene, 9, 3, lambda _: scene.act("stand", job, fill(said, rng)))


@FAMILIES.loop("near_identical")
def name_spelt_abroad(scene: Scene, rng: random.Random) -> None:
    """One name in many spellings, each of which the answer repeats."""
    prelude(scene)
    said, who = tongue(rng)["unknown"], name(rng, 4)
    forms = [who, who.lower(), who.upper(), f"{who}s", f"{who} AG", who + who[-1], f"{who}e", f"{who}-", f"{who}i"]
    rng.shuffle(forms)
    go_round(scene, 9, 3, lambda i: scene.act("kunde", {"name": forms[i]}, error=said.format(forms[i])))


@FAMILIES.loop("ping_pong")
def to_and_fro_abroad(scene: Scene, rng: random.Random) -> None:
    """Two agents ask each other for the same."""
    one, two = names(rng, 2)
    text = tongue(rng)["request"].format(name(rng))

    def body(index: int) -> None:
        mine, other, step = (one, two, "s1") if index % 2 == 0 else (two, one, "s2")
        scene.act("delegate", {"to": other, "instruction": text}, "", step=step, role=mine)

    go_round(scene, 9, 3, body)


# --- work -------------------------------------------------------------------------------------------------------------


@FAMILIES.honest
def stored_abroad(scene: Scene, rng: random.Random) -> None:
    """Record after record is stored, and each is acknowledged in the same words."""
    prelude(scene)
    said = tongue(rng)["stored"]
    for _ in range(rng.randint(8, 14)):
        scene.act("guardar", record(rng), said)


@FAMILIES.honest
def pages_abroad(scene: Scene, rng: random.Random) -> None:
    """Page after page, and one behind the last."""
    prelude(scene)
    said, writes = tongue(rng), form(rng)
    for page in range(1, rng.randint(6, 10)):
        scene.act("liste", {"seite": page}, "\n".join(writes(record(rng)) for _ in range(4)))
    scene.act("liste", {"seite": 99}, said["nothing"])


@FAMILIES.honest
def progress_abroad(scene: Scene, rng: random.Random) -> None:
    """A job that gets on, in per cent."""
    prelude(scene)
    said, percent = tongue(rng), 0
    while percent < 100:
        percent = min(100, percent + rng.randint(5, 30))
        scene.act("stand", {"id": 4}, f"{fill(said['working'], rng)}: {percent} %")
    scene.act("stand", {"id": 4}, said["done"])


@FAMILIES.honest
def some_found_abroad(scene: Scene, rng: random.Random) -> None:
    """Different searches, about half of them in vain."""
    prelude(scene)
    said, writes = tongue(rng)["nothing"], form(rng)
    for index in range(rng.randint(8, 12)):
        scene.act("recherche", {"texte": phrase(rng, 3)}, said if index % 3 else writes(record(rng)))


@FAMILIES.honest
def later_abroad(scene: Scene, rng: random.Random) -> None:
    """Busy once or twice, then it answers; for several things."""
    said, writes = tongue(rng)["later"], form(rng)
    for _ in range(4):
        key = {"clé": name(rng)}
        for _ in range(rng.randint(0, 2)):
            scene.act("obtenir", key, error=said, error_type="ServiceError")
        scene.act("obtenir", key, writes(record(rng)))


@FAMILIES.honest
def unknown_here_and_there_abroad(scene: Scene, rng: random.Random) -> None:
    """A list of customers, some of whom nobody knows."""
    prelude(scene)
    said, writes = tongue(rng)["unknown"], form(rng)
    for index in range(rng.randint(8, 12)):
        who = name(rng)
        if index % 4 in (1, 2):
            scene.act("kunde", {"name": who}, error=said.format(who))
        else:
            scene.act("kunde", {"name": who}, writes(record(rng)))


@FAMILIES.honest
def review_abroad(scene: Scene, rng: random.Random) -> None:
    """A text goes to and fro, and each time another point is mended."""
    one, two = names(rng, 2)
    said = tongue(rng)
    for _ in range(rng.randint(3, 5)):
        scene.act("handoff", {"to": two, "text": said["request"].format(phrase(rng, 6))}, "", step="s1", role=one)
        scene.act("bearbeiten", {"stelle": phrase(rng, 3)}, phrase(rng, 9), step="s2", role=two)
        scene.act("handoff", {"to": one, "text": f"{said['stored']} {phrase(rng, 7)}"}, "", step="s2", role=two)
        scene.act("prüfen", {"stelle": phrase(rng, 3)}, phrase(rng, 9), step="s1", role=one)
