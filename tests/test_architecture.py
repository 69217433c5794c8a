"""The architecture, kept by reading the sources: sections, layers, SQL, state, guards, and a page that loads nothing from elsewhere."""
import ast
import contextlib
import dis
import re
import sys
import types

import pytest
import webtest

import mininumbers
from conftest import ROOT, Site
from mininumbers import DROP_REASONS, ROUTES, Settings, create_app

SOURCE = (ROOT / "mininumbers.py").read_text("utf-8")
TREE = ast.parse(SOURCE)
BANNERS = {number: match[1] for number, line in enumerate(SOURCE.splitlines(), 1) if (match := re.fullmatch(r"# ---- (.+?) -+", line))}
SECTIONS = list(BANNERS.values())


# ---- helpers ---------------------------------------------------------------------------------------------------------

def section_of(node):
    """Return which section a top-level node stands in; -1 is above the first banner."""
    return sum(line < node.lineno for line in BANNERS) - 1


def functions(tree=TREE, prefix=""):
    """Yield (qualified name, node) of every function and class, nested ones too."""
    for node in ast.iter_child_nodes(tree):
        named = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        if named:
            yield prefix + node.name, node
        yield from functions(node, f"{prefix}{node.name}." if named else prefix)


def owners():
    """Return {node: qualified name of the innermost function or class around it, or of the constant that it makes}."""
    found = {each: "".join(assigned_names(node)[:1]) for node in TREE.body for each in ast.walk(node)}
    for name, function in functions():  # outer ones come first, so that inner ones win
        found.update(dict.fromkeys(ast.walk(function), name))
    return found


def assigned_names(node):
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, (ast.AnnAssign, ast.AugAssign)) else []
    return [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]


class WithoutAnnotations(ast.NodeTransformer):
    """Annotations name types for the reader; they are not evaluated."""

    def visit_arg(self, node):
        node.annotation = None
        return node

    def visit_FunctionDef(self, node):
        node.returns = None
        return self.generic_visit(node)

    def visit_AnnAssign(self, node):
        self.generic_visit(node)
        return ast.copy_location(ast.Assign([node.target], node.value) if node.value else ast.Pass(), node)


def names_used(node):
    """Return the global names that a top-level node uses when it runs, as the compiler sees them."""
    module = ast.Module([WithoutAnnotations().visit(node)], [])
    pending, used = [compile(ast.fix_missing_locations(module), "mininumbers.py", "exec")], set()
    while pending:
        code = pending.pop()
        pending += [const for const in code.co_consts if isinstance(const, types.CodeType)]
        stored = {each.argval for each in dis.get_instructions(code) if each.opname == "STORE_NAME"}
        used |= {each.argval for each in dis.get_instructions(code)
                 if each.opname in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS") and each.argval not in stored}
    return used


def fresh_tree():
    return ast.parse(SOURCE)


def texts(node):
    """Return the literal text in an expression: of strings, and of the fixed parts of f-strings."""
    return " ".join(each.value for each in ast.walk(node) if isinstance(each, ast.Constant) and isinstance(each.value, str))


# ---- sections --------------------------------------------------------------------------------------------------------

def test_the_table_of_contents_is_the_list_of_banners():
    indented = re.search(r"each uses only what stands above it:\n\n(.*?)\n\n", ast.get_docstring(TREE), re.DOTALL)[1]
    contents = [re.split(r"  +", line.strip())[0] for line in indented.splitlines()]
    assert contents == SECTIONS
    assert len(SECTIONS) >= 12


def test_banners_look_alike():
    assert {len(line) for line in SOURCE.splitlines() if line.startswith("# ----")} == {120}


def test_a_section_uses_only_what_stands_above_it_or_in_it():
    home = {name: section_of(node) for node in TREE.body for name in assigned_names(node)}
    wrong = [f"{SECTIONS[section_of(node)]}: {'/'.join(assigned_names(node))} (line {node.lineno}) uses {name} of {SECTIONS[home[name]]}"
             for node in fresh_tree().body for name in sorted(names_used(node)) if home.get(name, -1) > section_of(node)]
    assert wrong == []


def test_code_outside_the_sections_is_only_imports_and_the_modules_own_names():
    names = [name for node in TREE.body if section_of(node) == -1 for name in assigned_names(node)]
    assert names == ["__version__", "__all__", "log"]


def test_only_the_http_edge_knows_of_bottle():
    homes = {SECTIONS[section_of(node)] for node in TREE.body for each in ast.walk(node) if isinstance(each, ast.Name) and each.id == "bottle"}
    assert homes == {"HTTP edge"}


def test_every_public_name_says_what_it_is():
    inner = {name for outer, node in functions() if isinstance(node, ast.FunctionDef) for name, _ in functions(node, f"{outer}.")}
    public = [(name, node) for name, node in functions() if name not in inner and not any(part.startswith("_") for part in name.split("."))]
    assert [name for name, node in public if not ast.get_docstring(node)] == []
    assert len(public) > 150


def test_a_docstring_begins_with_a_line_that_stands_alone():
    firsts = [(name, ast.get_docstring(node).splitlines()) for name, node in functions() if ast.get_docstring(node)]
    assert [name for name, lines in firsts if len(lines) > 1 and lines[1]] == []


def test_imports_are_the_standard_library_and_the_four_packages():
    imported = {alias.name.split(".")[0] for node in ast.walk(TREE) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module.split(".")[0] for node in ast.walk(TREE) if isinstance(node, ast.ImportFrom)}
    assert imported - sys.stdlib_module_names == {"bottle", "waitress", "geoip2", "maxminddb", "ua_parser", "ua_parser_rs"}


# ---- state -----------------------------------------------------------------------------------------------------------

def test_module_globals_are_constants():
    values = [name for node in TREE.body if isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)) for name in assigned_names(node)]
    functions = [name for name in values if name != "log" and callable(getattr(mininumbers, name))]
    assert [name for name in values if not re.fullmatch(r"_?[A-Z]\w*|__\w+__|log", name) and name not in functions] == []
    assert [name for name in values if values.count(name) > 1] == []


def test_nothing_writes_to_a_global():
    names = {name for node in TREE.body if isinstance(node, (ast.Assign, ast.AnnAssign)) for name in assigned_names(node)}
    writers = [node.lineno for node in ast.walk(TREE) if isinstance(node, (ast.Global, ast.Nonlocal))]
    for node in ast.walk(TREE):
        targets = node.targets if isinstance(node, (ast.Assign, ast.Delete)) else [node.target] if isinstance(node, ast.AugAssign) else []
        for target in targets:
            if isinstance(target, (ast.Subscript, ast.Attribute)) and isinstance(target.value, ast.Name) and target.value.id in names:
                writers.append(target.lineno)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
            if node.func.value.id in names and node.func.attr in ("append", "add", "update", "pop", "clear", "setdefault", "extend", "remove"):
                writers.append(node.lineno)
    assert writers == []


def test_no_function_of_the_module_remembers_its_answers():
    remembering = [node.name for node in TREE.body if isinstance(node, ast.FunctionDef) for each in node.decorator_list if "cache" in ast.unparse(each)]
    assert remembering == []


def test_using_an_app_leaves_the_module_as_it_was(tmp_path, clock):
    def state():
        return {name: repr(value) for name, value in vars(mininumbers).items() if not name.startswith("__")}
    before = state()
    with contextlib.closing(create_app(Settings(db=str(tmp_path / "test.db"), geoip=""), clock=clock)) as app:
        app.setup("owner", "correct horse battery", "example.com")
        site = Site(app)
        site.send("/a?utm_source=x", p={"plan": "pro"})
        assert site.numbers("visitors", "events", filters=[["matches", "event:page", ["^/a"]]]) == [1, 1]
        app.run_jobs()
    assert state() == before


# ---- SQL -------------------------------------------------------------------------------------------------------------

# Where SQL is put together from pieces, and why no text of a visitor or a client can be among them.
COMPOSERS = {
    "connect": "a pragma takes no parameter; 0 or 1",
    "_migrate": "pragmas; the application's id and the schema's version",
    "Store.vacuum.step": "a pragma takes no parameter; an int",
    "find_site": "the column list of sites, a constant",
    "list_sites": "the column list of sites, a constant",
    "add_site": "columns named by the callers' keyword arguments",
    "set_site": "columns named by the callers' keyword arguments",
    "_domains": "a query of site ids, a literal at every caller",
    "_insert": "the one bulk insert; tables and columns named in the source",
    "Batch._open_visits": "the columns of visits, a constant",
    "Batch._combinations": "clients or origins, and their columns",
    "Where._behaviour": "the compiler: registry text, joins and compiled filters",
    "Where._texts": "the compiler: operators of a table, values bound",
    "ReadyWhere._texts": "the compiler: ids, which are numbers",
    "_read_pieces": "a condition that is there or not",
    "_read_visits": "the columns of visits, a constant, and a condition that is there or not",
    "_visitors": "a condition that is there or not",
    "Choice._compile_leaf": "the compiler's query of texts, beside a table and a column of the registry",
    "Scan._fold": "clients or origins, and a column of the registry",
    "Days.__init__": "min or max",
    "Days._add_rollups": "columns of rollups, which are SUMS",
    "_roll_month": "columns of rollups, which are SUMS",
    "Report._parts": "registry text, and placeholders of values",
    "Report._sql": "registry text around a compiled filter",
    "Report._revenue_sql": "registry text around a compiled filter",
    "FunnelHits._sql": "registry text around compiled filters, and places of steps",
    "list_named": "tables of CHECKS",
    "find_named": "tables of CHECKS",
    "_write_named": "tables of CHECKS, columns named in the source",
    "_rename_goal": "tables of CHECKS",
    "remove_named": "tables of CHECKS",
    "Ways._sql": "two ways to go through a visit, around compiled filters",
    "Retention._sql": "with or without what a compiled filter looks at",
    "_INVARIANTS": "tables and columns of the schema",
    "_write_nothing": "a pragma takes no parameter; the schema's version",
    "_site_ids_without_site": "tables named in the source",
    "_delete_in_steps": "tables, keys and conditions written out in _purge_site",
    "_purge_texts": "tables and columns of the schema",
    "_delete_unused.step": "tables of _purge_texts",
    "_recent": "tables and columns of the schema",
    "_recently_named": "tables and columns of the schema",
}
SQL = re.compile(r"\b(?:select|insert into|insert or replace|update \w* ?set|delete from|pragma|where|group by|order by|union|values \()\b"
                 r"|\b(?:from|join) (?:hits|visits|texts|sites|json_each)\b|\bupdate$")


def is_composed(node):
    """Return whether an expression makes text out of pieces: f-string, +, %, format, join, replace."""
    if isinstance(node, ast.JoinedStr):
        return any(isinstance(value, ast.FormattedValue) for value in node.values)
    if isinstance(node, ast.BinOp):
        return isinstance(node.op, (ast.Add, ast.Mod))
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("format", "join", "replace", "format_map")


def test_sql_is_put_together_only_where_it_is_known_to_be_safe():
    errors = {each for node in ast.walk(TREE) if isinstance(node, ast.Call) and re.search(r"Error|Input|Found|Busy|help|print|log\.|parser|_Parser",
              ast.unparse(node.func)) for each in ast.walk(node)}  # sentences for people
    found = {owner for node, owner in owners().items() if is_composed(node) and node not in errors and SQL.search(texts(node))}
    assert found == set(COMPOSERS)


def test_whatever_is_executed_is_a_literal_or_comes_from_where_sql_is_put_together():
    passed_on = {
        "_migrate": "a statement of schema.sql",
        "check_database": "_INVARIANTS, which are literals",
        "Report._read": "what Report._sql put together",
        "Report._revenue": "what Report._revenue_sql put together",
        "FunnelHits._chunks": "what FunnelHits._sql put together",
        "ReadyWhere._texts": "the compiler's query of texts",
        "Ways._count": "what Ways._sql put together",
        "Retention._count": "what Retention._sql put together",
    }
    executing = {owner for node, owner in owners().items() if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
                 and node.func.attr.startswith("execute") and not isinstance(node.args[0], ast.Constant)}
    assert executing - set(COMPOSERS) - set(passed_on) == set()


def test_only_the_schema_defines_tables():
    literals = "\n".join(node.value for node in ast.walk(TREE) if isinstance(node, ast.Constant) and isinstance(node.value, str))
    assert re.findall(r"(?i)\b(?:create|alter|drop)\s+(?:temp\w*\s+)?(?:unique\s+)?(?:virtual\s+)?(?:table|index|view|trigger)\b", literals) == []
    assert "create table hits" in (ROOT / "schema.sql").read_text("utf-8")


# ---- routes and reasons ----------------------------------------------------------------------------------------------

# What anybody may ask: the page and its script, health, collection, and who is signed in.
OPEN = {("GET", "/"), ("GET", "/health"), ("GET", "/tracker.js"), ("GET", "/js/script.js"), ("POST", "/api/event"), ("OPTIONS", "/api/event"),
        ("GET", "/pixel.gif"), ("GET", "/api/session")}


def test_every_route_has_a_guard_and_only_these_are_open():
    assert all(callable(route.guard) for route in ROUTES)
    assert {(route.method, route.path) for route in ROUTES if route.guard is mininumbers.anyone} == OPEN


def test_routes_are_added_only_from_the_table():
    adding = [owner for node, owner in owners().items() if isinstance(node, ast.Attribute) and node.attr in ("route", "mount", "add_route")]
    assert adding == ["build_wsgi"]


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """A program or a browser without any credentials."""
    with contextlib.closing(create_app(Settings(db=str(tmp_path_factory.mktemp("app") / "test.db"), geoip=""))) as app:
        yield webtest.TestApp(app, extra_environ={"REMOTE_ADDR": "127.0.0.1"})


@pytest.mark.parametrize("route", [route for route in ROUTES if (route.method, route.path) not in OPEN], ids=lambda route: f"{route.method} {route.path}")
def test_every_other_route_refuses_strangers_and_other_sites(stranger, route):
    def ask(**headers):
        body = b"" if route.method == "GET" else b"{}"
        path = route.path.replace("<id:int>", "1").replace("<domain>", "example.com")
        answer = stranger.request(path, method=route.method, headers={"Content-Type": "application/json", **headers}, body=body, expect_errors=True)
        return answer.status_code, answer.json["code"]
    assert ask(Origin="https://evil.example") == ask(**{"Sec-Fetch-Site": "cross-site"}) == ask(**{"Sec-Fetch-Site": "same-site"}) == (403, "forbidden")
    own = {} if route.method == "GET" else {"Sec-Fetch-Site": "same-origin"}
    if route.guard is not mininumbers.same_origin:
        assert ask(**own) == ask(**own, Authorization="Bearer guess") == ask(**own, Cookie="mininumbers=guess") == (401, "unauthorized")
    if route.method != "GET":
        assert ask()[0] == ask(**{"Sec-Fetch-Site": "none"})[0] == 403, "what changes something must say where it comes from"


def outcomes(value):
    """Return the literals among which a returned expression chooses."""
    if isinstance(value, ast.IfExp):
        return outcomes(value.body) | outcomes(value.orelse)
    return {value.value} if isinstance(value, ast.Constant) else set()


def test_every_reason_to_drop_a_hit_is_in_the_table_and_every_one_there_is_used():
    judges = [node for name, node in functions() if re.fullmatch(r"(?:Collector|Batch)\.\w+", name) and node.returns and ast.unparse(node.returns) == "str"]
    reasons = {text for judge in judges for node in ast.walk(judge) if isinstance(node, ast.Return) for text in outcomes(node.value)}
    refused = {"limit"}  # told to the sender as an error, which no judge returns
    assert reasons - {""} | refused == set(DROP_REASONS)


# ---- page and tracker ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["dashboard.html", "tracker.js", "tracker.min.js"])
def test_text_never_becomes_markup_or_code(name):
    source = (ROOT / name).read_text("utf-8")
    assert source
    assert re.findall(r"\.(?:innerHTML|outerHTML|insertAdjacentHTML|srcdoc|setHTMLUnsafe|createContextualFragment)\b"
                      r"|\bdocument\.write|\beval\(|\bnew Function\b|javascript:", source) == []


def test_the_dashboard_loads_nothing_from_elsewhere():
    source = (ROOT / "dashboard.html").read_text("utf-8")
    source = re.sub(r"/\*.*?\*/|<!--.*?-->", "", source, flags=re.DOTALL)
    allowed = r'<a\b[^>]*\shref="https://[^"]*"[^>]*>|http://www\.w3\.org/\S+?(?=[\'"])|https://[\w./]+</a>'  # links, their text, and names of namespaces
    assert re.findall(r"(?:https?:)?//[\w-]+\.[\w.-]+\S*|@import|\bimport\s*[({'\"]", re.sub(allowed, "", source)) == []
    assert not re.search(r"<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=[\"'](?!data:)", source), "everything is in the one file"


def test_the_tracker_writes_nothing_into_the_browser():
    source = (ROOT / "tracker.min.js").read_text("utf-8")
    assert re.findall(r"\.cookie\b|\.setItem\(|indexedDB|localStorage(?:\.\w+|\[[^]]*\])\s*=[^=]|sessionStorage|caches\b", source) == []
