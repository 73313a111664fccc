"""Names are followed from routes and programs to the lines that they lead to."""

import textwrap

from chargehand.workers.scanners.reachability import Reachability, trace
from chargehand.workers.scanners.structure import structure_of


def traced(**modules: str) -> Reachability:
    """Modules by name, where `__` stands for `/`."""
    files = {
        name.replace("__init__", "INIT").replace("__", "/").replace("INIT", "__init__") + ".py": textwrap.dedent(text)
        for name, text in modules.items()
    }
    return trace([structure_of(text, path) for path, text in files.items()])


def test_a_route_leads_through_imports_and_calls() -> None:
    found = traced(
        pkg__app="""
        from pkg import store
        from .tools import clean as tidy
        @app.route("/parcels", methods=["GET", "POST"])
        def parcels():
            return store.find(tidy())
        """,
        pkg__store="""
        def find(name):
            return build(name)
        def build(name):
            return 1
        def unused():
            return 2
        """,
        pkg__tools="""
        def clean():
            return 3
        """,
    )
    assert found.routes == ("GET /parcels", "POST /parcels")
    assert found.of("pkg/store.py", 5) == ("GET /parcels", "POST /parcels")
    assert found.of("pkg/tools.py", 3) == ("GET /parcels", "POST /parcels")
    assert found.of("pkg/store.py", 7) == ()


def test_decorators_of_any_object_and_registered_views_are_routes() -> None:
    found = traced(
        api="""
        @router.patch("/items/{item}")
        async def change(item): ...
        @self.web.api_route("/any", methods=("PUT",))
        def put(): ...
        app.add_url_rule("/late", view_func=late)
        def late(): ...
        """,
        urls="""
        from django.urls import path
        from views import home
        urlpatterns = [path("home/", home), path("old/", include("x"))]
        """,
        views="""
        def home(request): ...
        """,
    )
    assert set(found.routes) == {"PATCH /items/{item}", "PUT /any", "GET /late", "ANY /home/"}
    assert found.of("views.py", 2) == ("ANY /home/",)
    assert found.of("api.py", 7) == ("GET /late",)


def test_other_decorators_with_a_text_are_no_routes() -> None:
    assert traced(a="@cache.get('key')\ndef f(): ...\n@patch('a.b')\ndef g(): ...\n").routes == ()


def test_a_constant_is_reached_by_who_reads_it() -> None:
    found = traced(
        settings="SECRET = 'x'\nUNUSED = 'y'\n",
        app="""
        import settings
        @app.get("/x")
        def x():
            return settings.SECRET
        """,
    )
    assert found.of("settings.py", 1) == ("GET /x",)
    assert found.of("settings.py", 2) == ()


def test_methods_are_followed_through_self_and_by_a_rare_name() -> None:
    found = traced(
        staff="""
        class Staff:
            def __init__(self):
                self.ready = prepare()
            def begin_reset(self):
                return self.token()
            def token(self):
                return 1
        def prepare(): ...
        """,
        app="""
        from staff import Staff
        @app.post("/reset")
        def reset(staff):
            staff.begin_reset()
        @app.post("/new")
        def new():
            Staff()
        """,
    )
    assert found.of("staff.py", 8) == ("POST /reset",)
    assert found.of("staff.py", 9) == ("POST /new",)


def test_everyday_method_names_lead_nowhere() -> None:
    found = traced(
        a="class Cache:\n    def get(self):\n        return 1\n", b="@app.get('/x')\ndef x(d):\n    return d.get('k')\n"
    )
    assert found.of("a.py", 3) == ()


def test_nested_functions_and_programs_are_reached() -> None:
    found = traced(
        pkg__serve="""
        from pkg.app import create
        if __name__ == "__main__":
            create()
        """,
        pkg__app="""
        def create():
            def inner():
                return 1
            return inner
        """,
    )
    assert found.programs == ("python -m pkg.serve",)
    assert found.of("pkg/app.py", 4) == ("python -m pkg.serve",)


def test_a_package_that_reexports_is_looked_through() -> None:
    found = traced(
        src__pkg____init__="from .deep import work\n",
        src__pkg__deep="def work():\n    return 1\n",
        app="from pkg import work\n@app.get('/x')\ndef x():\n    return work()\n",
    )
    assert found.of("src/pkg/deep.py", 2) == ("GET /x",)


def test_calls_in_a_circle_end() -> None:
    found = traced(a="@app.get('/x')\ndef a():\n    b()\ndef b():\n    a()\n")
    assert found.of("a.py", 5) == ("GET /x",)


def test_a_hash_declared_harmless_is_noted() -> None:
    structure = structure_of(
        "import hashlib\nhashlib.md5(b, usedforsecurity=False)\nhashlib.new('sha1', b, usedforsecurity=False)\n"
        "hashlib.md5(b)\nhashlib.sha256(b, usedforsecurity=False)\n",
        "a.py",
    )
    assert structure.silenced_hashes == [(2, 2, "md5"), (3, 3, "sha1")]
