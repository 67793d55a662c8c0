"""Send an export through a Label Studio server that is running, and keep what it gives back, for `import-review`.

    label-studio start --internal-host 127.0.0.1 --user-token TOKEN --username MAIL --password WORD
    python benchmarks/label_studio_round_trip.py EXPORT back.json --token TOKEN
    autocoarse import-review back.json --export EXPORT --out reviewed        # no pixel is changed

The server must be told to serve the folder that holds EXPORT (docs/review.md) and to take tokens
(LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN=true). With --erase CLASS --username MAIL --password WORD a stroke of the eraser
is drawn over that class of the first task in a browser, by playwright, before it is submitted there.
"""

import argparse
import json
import time
import urllib.request
from pathlib import Path
from typing import Any


class Server:
    """A Label Studio server's API."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url.rstrip("/")
        self._headers = {"Authorization": f"Token {token}", "Content-Type": "application/json"}

    def get(self, path: str) -> bytes:
        """What a path gives."""
        return self._call(path, None, "GET")

    def send(self, path: str, content: object, method: str = "POST") -> Any:  # noqa: ANN401 - JSON
        """The answer to JSON."""
        return json.loads(self._call(path, json.dumps(content).encode(), method))

    def _call(self, path: str, content: bytes | None, method: str) -> bytes:
        request = urllib.request.Request(self.url + path, content, self._headers, method=method)  # noqa: S310 - the caller's server
        with urllib.request.urlopen(request, timeout=600) as answer:  # noqa: S310
            return bytes(answer.read())


def make_project(server: Server, export: Path, tasks: list[Any]) -> tuple[int, list[Any]]:
    """A project with the export's interface and tasks: its id, and the tasks as the server has them."""
    config = (export / "label-config.xml").read_text("utf-8")
    project = server.send("/api/projects/", {"title": f"review {export.name}", "label_config": config})["id"]
    storage = {"project": project, "path": str(export.absolute() / "images"), "use_blob_urls": True, "title": "images"}
    server.send("/api/storages/localfiles/", storage)
    server.send(f"/api/projects/{project}/import", tasks)
    server.send(f"/api/projects/{project}/", {"model_version": "autocoarse"}, "PATCH")
    found = json.loads(server.get(f"/api/tasks?project={project}&fields=all&page_size=100000"))["tasks"]
    return project, found


def erase(server: Server, project: int, task: int, arguments: argparse.Namespace) -> None:
    """Draw over a class with the eraser in the browser, and submit."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=arguments.chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.goto(f"{server.url}/user/login")
        page.fill("#email", arguments.username)
        page.fill("#password", arguments.password)
        page.click("button[type=submit]")
        page.wait_for_load_state("networkidle")
        page.goto(f"{server.url}/projects/{project}/data?task={task}&labeling=1")
        page.wait_for_selector("canvas", timeout=120_000)
        time.sleep(15)  # until the brushes are drawn, which nothing announces
        page.get_by_text(arguments.erase, exact=True).last.click()
        page.keyboard.press("e")
        boxes = [box for canvas in page.query_selector_all("canvas") if (box := canvas.bounding_box())]
        largest = max(boxes, key=lambda box: box["width"] * box["height"])
        x, y = largest["x"] + largest["width"] * 0.6, largest["y"] + largest["height"] * 0.7
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 60, y + 20, steps=10)
        page.mouse.up()
        page.get_by_role("button", name="Submit").first.click()
        time.sleep(5)
        browser.close()


def main() -> None:
    """Send, submit, and keep what comes back."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", type=Path)
    parser.add_argument("back", type=Path)
    parser.add_argument("--server", default="http://127.0.0.1:8080")
    parser.add_argument("--token", required=True)
    parser.add_argument("--erase", help="class to draw over, in the first task alone")
    parser.add_argument("--username")
    parser.add_argument("--password")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    arguments = parser.parse_args()
    server = Server(arguments.server, arguments.token)
    tasks = json.loads((arguments.export / "tasks.json").read_text("utf-8"))
    project, found = make_project(server, arguments.export, tasks[:1] if arguments.erase else tasks)
    for task in found:
        print(task["data"]["key"], len(server.get(task["data"]["image"])), "bytes of image")
        if arguments.erase:
            erase(server, project, task["id"], arguments)
        else:
            prediction = json.loads(server.get(f"/api/tasks/{task['id']}"))["predictions"][0]
            server.send(f"/api/tasks/{task['id']}/annotations/", {"result": prediction["result"]})
    arguments.back.write_bytes(server.get(f"/api/projects/{project}/export?exportType=JSON"))


if __name__ == "__main__":
    main()
