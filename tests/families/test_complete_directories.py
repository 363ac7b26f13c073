"""What a growth or a run hands on: complete stock directories with a model card, which a hub takes as they are."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
import yaml
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from grow.common.errors import CheckpointError
from grow.common.hub import push_to_hub
from grow.common.model_card import license_of
from grow.data.tokenizer import save_tokenizer, train_tokenizer
from grow.growth.run import grow
from grow.growth.settings import ScaleSettings
from grow.growth.target import scaled_target
from tests.growth.cases import CONFIGS, make_source, preset

TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """A grown directory of a source with everything that a published model has."""
    source = make_source(CONFIGS["llama-gqa"], tmp_path_factory.mktemp("complete") / "source", dtype=torch.float32)
    tokenizer = train_tokenizer(["a text to learn from"], 300)
    tokenizer.chat_template = TEMPLATE
    save_tokenizer(tokenizer, source.directory)
    GenerationConfig(temperature=0.5, do_sample=True, eos_token_id=[0, 2]).save_pretrained(source.directory)
    (source.directory / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Somebody's model\n")
    output = source.directory.parent / "grown"
    grow(str(source.directory), output, preset(), scaled_target(source.config, ScaleSettings()))
    return output


def test_a_grown_directory_is_complete(grown):
    assert AutoTokenizer.from_pretrained(grown).chat_template == TEMPLATE
    assert AutoModelForCausalLM.from_pretrained(grown).generation_config.eos_token_id == [0, 2]
    assert GenerationConfig.from_pretrained(grown).temperature == 0.5
    with safe_open(grown / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_its_model_card_says_what_it_is_and_carries_the_license_over(grown):
    _, matter, text = (grown / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(matter) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "license": "apache-2.0",
        "tags": ["grow"],  # base_model is for models of the hub; this one was a directory
    }
    assert "function kept, logits differ by at most" in text
    assert "| tokens | not recorded |" in text
    assert "AutoModelForCausalLM.from_pretrained" in text
    assert license_of(grown) == "apache-2.0"


class _Hub(BaseHTTPRequestHandler):
    """As much of the hub's HTTP API as one push needs; every file is taken inside the commit."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked[self.path] = body
        if self.server.refuses:
            self._answer(403, {"error": "not yours"})
        elif self.path == "/api/repos/create":
            self._answer(200, {"url": f"{self._home()}/somebody/grown", "name": "somebody/grown"})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            self._answer(
                200,
                {"files": [{"path": each["path"], "uploadMode": "regular", "shouldIgnore": False} for each in files]},
            )
        elif "validate-yaml" in self.path:
            self._answer(200, {"errors": [], "warnings": []})
        else:
            made = {"commitUrl": f"{self._home()}/somebody/grown/commit/{'0' * 40}", "commitOid": "0" * 40}
            self._answer(200, made)

    def do_GET(self):
        self._answer(403, {"error": "not yours"}) if self.server.refuses else self._answer(
            200, {"id": "somebody/grown", "sha": "0" * 40, "siblings": []}
        )

    def _home(self):
        return f"http://127.0.0.1:{self.server.server_port}"

    def _answer(self, code, content):
        data = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    server.asked, server.refuses = {}, False
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", "hf_made_up")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("private", [True, False])
def test_a_push_sends_every_file_of_the_directory_in_one_commit(grown, hub, private):
    push_to_hub(grown, "somebody/grown", private=private)
    made = json.loads(hub.asked["/api/repos/create"])
    assert made["private" if "private" in made else "visibility"] in (private, "private" if private else "public")
    (commit,) = (body for path, body in hub.asked.items() if "/commit/" in path)
    files = [each["value"] for each in map(json.loads, commit.splitlines()) if each["key"] == "file"]
    sent = {each["path"]: base64.b64decode(each["content"]) for each in files}
    assert sent == {file.name: file.read_bytes() for file in grown.iterdir()}


def test_a_hub_that_refuses_is_one_paragraph(grown, hub):
    hub.refuses = True
    with pytest.raises(CheckpointError, match="the hub did not take it") as refused:
        push_to_hub(grown, "somebody/grown", private=True)
    assert "\n" not in str(refused.value)
    assert "hf_made_up" not in str(refused.value)
