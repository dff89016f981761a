"""A Kubernetes API that serves given objects to the real kubectl; it only answers questions."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Object = dict[str, Any]
# Group and version, plural, kind, whether it is in a namespace.
RESOURCES = (
    ("v1", "pods", "Pod", True),
    ("v1", "nodes", "Node", False),
    ("v1", "services", "Service", True),
    ("v1", "namespaces", "Namespace", False),
    ("v1", "secrets", "Secret", True),
    ("v1", "events", "Event", True),
    ("v1", "persistentvolumeclaims", "PersistentVolumeClaim", True),
    ("apps/v1", "deployments", "Deployment", True),
    ("node.k8s.io/v1", "runtimeclasses", "RuntimeClass", False),
    ("apiextensions.k8s.io/v1", "customresourcedefinitions", "CustomResourceDefinition", False),
    ("gateway.networking.k8s.io/v1", "gateways", "Gateway", True),
)
SHORT = {"customresourcedefinitions": ["crd"]}


def _discovery(version: str) -> Object:
    resources = [
        {
            "name": plural,
            "singularName": kind.lower(),
            "namespaced": namespaced,
            "kind": kind,
            "verbs": ["get", "list"],
            "shortNames": SHORT.get(plural, []),
        }
        for group, plural, kind, namespaced in RESOURCES
        if group == version
    ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources}


def _groups() -> Object:
    versions = sorted({group for group, *_ in RESOURCES if "/" in group})
    groups = []
    for version in versions:
        name, number = version.split("/")
        told = {"groupVersion": version, "version": number}
        groups.append({"name": name, "versions": [told], "preferredVersion": told})
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def _matches(item: Object, labels: str, fields: str) -> bool:
    own = item["metadata"].get("labels", {})
    for wanted in filter(None, labels.split(",")):
        key, _, value = wanted.partition("=")
        if own.get(key) != value:
            return False
    for wanted in filter(None, fields.split(",")):
        path, _, value = wanted.partition("=")
        found: Any = item
        for key in path.split("."):
            found = found.get(key, {})
        if found != value:
            return False
    return True


class _Handler(BaseHTTPRequestHandler):
    server: ApiServer

    def do_GET(self) -> None:
        """Answer kubectl."""
        url = urlsplit(self.path)
        raw = self.server.raw.get(self.path) or self.server.raw.get(url.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if raw is not None:
            self._send(200, raw.encode(), "text/plain")
        else:
            found = self._found(url.path, query)
            missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
            self._send(200 if found else 404, json.dumps(found or missing).encode(), "application/json")

    def _found(self, path: str, query: Mapping[str, str]) -> Object | None:
        if path == "/api":
            return {"kind": "APIVersions", "apiVersion": "v1", "versions": ["v1"]}
        if path == "/apis":
            return _groups()
        version, _, rest = path.removeprefix("/api/").removeprefix("/apis/").partition("/")
        if path.startswith("/apis/"):
            number, _, rest = rest.partition("/")
            version = f"{version}/{number}"
        if not rest:
            return _discovery(version)
        parts = rest.split("/")
        namespace = parts[1] if parts[0] == "namespaces" and len(parts) > 2 else None
        plural, *name = parts[2:] if namespace else parts
        items = self._items(version, plural, namespace)
        if name:
            return next((item for item in items if item["metadata"]["name"] == name[0]), None)
        chosen = [
            item for item in items if _matches(item, query.get("labelSelector", ""), query.get("fieldSelector", ""))
        ]
        return {"kind": "List", "apiVersion": version, "metadata": {}, "items": chosen}

    def _items(self, version: str, plural: str, namespace: str | None) -> list[Object]:
        (kind,) = [kind for group, name, kind, _ in RESOURCES if (group, name) == (version, plural)]
        return [
            item
            for item in self.server.objects
            if item["kind"] == kind and item["metadata"].get("namespace") in (namespace, None)
        ]

    def _send(self, status: int, data: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing."""


class ApiServer(ThreadingHTTPServer):
    """The server: its objects, and paths that are answered with a text."""

    daemon_threads = True

    def __init__(self, objects: Sequence[Object], raw: Mapping[str, str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects = objects
        self.raw = raw

    @property
    def url(self) -> str:
        """Where kubectl finds it."""
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def api_server(objects: Sequence[Object], raw: Mapping[str, str]) -> Iterator[ApiServer]:
    """Serve objects while the context lasts."""
    with ApiServer(objects, raw) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
