"""Pages in a browser, and what they did that nobody wants: errors on the console, refused by the content security policy."""

from __future__ import annotations

import contextlib

from starlette.applications import Starlette
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount, Route

from procjobs.web.access.headers import POLICY

from ..missing import missing

CSP = f"{POLICY}; require-trusted-types-for 'script'"
"""What the pages of the tests allow: no more than procjobs' own pages do, and no text of anybody as HTML."""

WITNESS = """
    window.witness = { events: [], speech: [], violations: [] };
    addEventListener("securitypolicyviolation", (event) => {
      witness.violations.push(`${event.violatedDirective} ${event.blockedURI}`);
    });
    for (const name of ["job-progress", "job-end"]) {
      addEventListener(name, (event) => witness.events.push([name, event.target.getAttribute("label"), event.detail]));
    }
    const attach = Element.prototype.attachShadow;
    Element.prototype.attachShadow = function (options) {
      const root = attach.call(this, options);
      const listen = () => {
        const text = root.querySelector("[role=status]").textContent;
        if (text && text !== root.spoken) witness.speech.push(root.spoken = text);
      };
      new MutationObserver(listen).observe(root, { subtree: true, childList: true, characterData: true });
      return root;
    };
"""


def page_of(body, head=""):
    """Return a page with these bars, as an application would send it."""
    text = f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Films</title>
        <meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">{head}</head>
        <body><main><h1>Films</h1>{body}</main></body></html>"""
    return HTMLResponse(text, headers={"Content-Security-Policy": CSP})


def no_icon(request):
    """Answer to what browsers ask every site for."""
    return Response(status_code=204)


def site(jobs, body):
    """Return an application with one page, that `body()` makes, and the pages of jobs below it."""

    async def page(request):
        return page_of(body())

    return Starlette(routes=[Route("/", page), Route("/favicon.ico", no_icon), Mount("/jobs", jobs)])


def barriers(page):
    """Return what axe finds in a page that keeps somebody out: [] if it is as it should be."""
    try:
        from axe_playwright_python.sync_playwright import Axe
    except ImportError:
        missing("axe-playwright-python is not installed (pip install '.[test]')")
    return [f"{found['id']}: {found['nodes'][0]['html']}" for found in Axe().run(page).response["violations"]]


class Watched:
    """A page and its witness. Bars are found by their label."""

    def __init__(self, page):
        self.page = page
        self.console = []
        page.on("console", lambda message: self.console.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.console.append(f"uncaught: {error}"))

    def bar(self, label="Film 7"):
        return self.page.locator(f'procjobs-progress[label="{label}"]').first

    def wait_for_state(self, state, label="Film 7"):
        self.page.locator(f'procjobs-progress[label="{label}"][state="{state}"]').first.wait_for(state="attached")

    def wait_for_text(self, text, label="Film 7"):
        self.bar(label).get_by_text(text).first.wait_for()

    def read(self, label="Film 7"):
        """Return the texts of a bar, and its value: None if it is indeterminate."""
        return self.bar(label).evaluate("""(bar) => {
            const root = bar.shadowRoot;
            const progress = root.querySelector("progress");
            const texts = Object.fromEntries(["label", "value", "message", "left"].map(
                (name) => [name, root.querySelector("." + name).textContent.replaceAll(/[\\u00a0\\u202f]/g, " ")]));
            return {...texts, state: bar.getAttribute("state"), bar: progress.position < 0 ? null : progress.value,
                spoken: progress.getAttribute("aria-valuetext").replaceAll(/[\\u00a0\\u202f]/g, " ")};
        }""")

    def witness(self, name):
        return self.page.evaluate(f"witness.{name}")

    def hide(self, is_hidden):
        """Do as if another tab were in front."""
        self.page.evaluate("""(isHidden) => {
            Object.defineProperty(document, "hidden", { value: isHidden, configurable: true });
            document.dispatchEvent(new Event("visibilitychange"));
        }""", is_hidden)  # fmt: skip

    def assert_quiet(self):
        assert [] == self.console
        assert [] == self.witness("violations")


@contextlib.contextmanager
def visiting(browser, url, **options):
    """Open a page in a fresh context."""
    context = browser.new_context(**options)
    context.set_default_timeout(20_000)
    try:
        context.add_init_script(WITNESS)
        watched = Watched(context.new_page())
        if url:
            watched.page.goto(url)
        yield watched
    finally:
        context.close()
