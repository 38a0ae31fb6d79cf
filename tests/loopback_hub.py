"""A small Hub on this machine, for tests of pushing and loading."""

import base64
import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import yaml


class Hub(ThreadingHTTPServer):
    """What huggingface_hub needs to create a model repository, commit to it and read from it."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.commits = {}  # repository: [{path: bytes}, ...]
        self.blobs = {}  # sha256: bytes, of large files
        self.private = {}  # repository: whether it was created as private

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        history = self.commits[repo]
        return history[-1] if revision == "main" else history[int(revision, 16)]


class HubHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def reply(self, status: int, body=b"", **headers):
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            chunks = []
            while size := int(self.rfile.readline(), 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def route(self):
        path, body = unquote(self.path).split("?")[0], self.body()
        for method, pattern, action in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in method.split():
                return action(self, *match.groups(), body)
        return self.reply(404, {"error": "no such page"})

    do_GET = do_HEAD = do_POST = do_PUT = route

    def create(self, body):
        wanted = json.loads(body)
        repo = f"{wanted['organization']}/{wanted['name']}"
        if repo in self.server.commits:
            return self.reply(409, {"error": "exists already", "url": f"{self.server.url}/{repo}"})
        self.server.commits[repo] = [{}]
        self.server.private[repo] = wanted.get("visibility") == "private" or wanted.get("private", False)
        return self.reply(200, {"url": f"{self.server.url}/{repo}", "name": repo})

    def validate(self, body):
        self.reply(200, {"errors": [], "warnings": []})

    def preupload(self, repo, revision, body):
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(body)["files"]
        ]
        self.reply(200, {"files": files})

    def large_files(self, repo, body):
        objects = json.loads(body)["objects"]
        for wanted in objects:
            wanted["actions"] = {"upload": {"href": f"{self.server.url}/upload/{wanted['oid']}"}}
        self.reply(200, {"transfer": "basic", "objects": objects})

    def upload(self, oid, body):
        assert hashlib.sha256(body).hexdigest() == oid
        self.server.blobs[oid] = body
        self.reply(200)

    def commit(self, repo, revision, body):
        files = dict(self.server.files(repo))
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.blobs[value["oid"]]
        self.server.commits[repo].append(files)
        sha = f"{len(self.server.commits[repo]) - 1:040x}"
        self.reply(200, {"commitUrl": f"{self.server.url}/{repo}/commit/{sha}", "commitOid": sha})

    def info(self, repo, revision, body):
        if repo not in self.server.commits:
            return self.reply(404, {"error": "no such model"}, X_Error_Code="RepoNotFound")
        files = self.server.files(repo, revision or "main")
        card = yaml.safe_load(files.get("README.md", b"---\n---").split(b"---")[1]) or {}
        answer = {
            "id": repo,
            "sha": f"{self.server.commits[repo].index(files):040x}",
            "siblings": [{"rfilename": name} for name in files],
            "pipeline_tag": card.get("pipeline_tag"),
            "library_name": card.get("library_name"),
        }
        return self.reply(200, answer)

    def tree(self, repo, revision, folder, body):
        if folder:
            return self.reply(404, {"error": "no such folder"}, X_Error_Code="EntryNotFound")
        files = self.server.files(repo, revision)
        listing = [
            {"type": "file", "path": path, "oid": "0" * 40, "size": len(files[path])} for path in files
        ]
        return self.reply(200, listing)

    def download(self, repo, revision, name, body):
        if repo not in self.server.commits:
            return self.reply(404, {"error": "no such model"}, X_Error_Code="RepoNotFound")
        files = self.server.files(repo, revision)
        sha = f"{self.server.commits[repo].index(files):040x}"
        if name not in files:
            return self.reply(404, b"", X_Error_Code="EntryNotFound", X_Repo_Commit=sha)
        etag = hashlib.sha256(files[name]).hexdigest()
        return self.reply(200, files[name], X_Repo_Commit=sha, ETag=f'"{etag}"')


NAME = r"([\w-]+/[\w.-]+)"
ROUTES = [
    ("POST", r"/api/repos/create", HubHandler.create),
    ("POST", r"/api/validate-yaml", HubHandler.validate),
    ("POST", rf"/api/models/{NAME}/preupload/(.+)", HubHandler.preupload),
    ("POST", rf"/{NAME}\.git/info/lfs/objects/batch", HubHandler.large_files),
    ("PUT", r"/upload/(\w+)", HubHandler.upload),
    ("POST", rf"/api/models/{NAME}/commit/(.+)", HubHandler.commit),
    ("GET", rf"/api/models/{NAME}(?:/revision/(.+))?", HubHandler.info),
    ("GET", rf"/api/models/{NAME}/tree/(\w+)(?:/(.+))?", HubHandler.tree),
    ("GET HEAD", rf"/{NAME}/resolve/(\w+)/(.+)", HubHandler.download),
]
