"""A LangChain retriever over the memory of the agent's sidecar. Needs langchain-core; the rest is Python's standard library.

    retriever = ContextManagerRetriever(token_budget=500)
    documents = retriever.invoke("How long should an answer be?")
"""

import base64
import hashlib
import hmac
import json
import os
import time
import urllib.request
import uuid

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever


def sign(key, method, path, body, created=None, nonce=None):
    """The headers that sign a request to a path without a query."""
    digest = "sha-256=:" + base64.b64encode(hashlib.sha256(body).digest()).decode() + ":"
    parameters = (
        '("@method" "@path" "@query" "content-digest")'
        f';created={created or int(time.time())};nonce="{nonce or uuid.uuid4().hex}";keyid="{key["id"]}";alg="hmac-sha256"'
    )
    base = f'"@method": {method}\n"@path": {path}\n"@query": ?\n"content-digest": {digest}\n"@signature-params": {parameters}'
    mac = base64.b64encode(hmac.digest(base64.b64decode(key["key"]), base.encode(), "sha256")).decode()
    return {"Content-Digest": digest, "Signature-Input": f"sig1={parameters}", "Signature": f"sig1=:{mac}:"}


def call(method, path, message):
    """The answer to a request. Keys are rotated, so the file is read for each one."""
    with open(os.environ["CONTEXT_MANAGER_KEYS"]) as file:
        key = json.load(file)["active"]
    body = json.dumps(message).encode()
    headers = {"Content-Type": "application/json", **sign(key, method, path, body)}
    request = urllib.request.Request(os.environ["CONTEXT_MANAGER_URL"] + path, body, headers, method=method)
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


class ContextManagerRetriever(BaseRetriever):
    """Finds the contexts that say most about a query and fit into a budget of tokens, best first."""

    token_budget: int = 2000

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        found = call("POST", "/v1/contexts/search", {"query": query, "token_budget": self.token_budget})
        return [
            Document(
                id=context["id"],
                page_content=context["text"],
                metadata={**context.get("metadata", {}), "level": context["level"], "score": context["score"]},
            )
            for context in found["contexts"]
        ]
