"""The backend of a judge whose model runs on an OpenAI-compatible server."""

import re
import sys

from cli import BadInput, note
from extras.endpoint import Endpoint
from seeding import stable_hash
from styles import Style, load_style
from verdicts import read_verdict

CONTROL_TOKEN_START = re.compile(
    r"<(?=[|｜]|/?(think|s|[a-z]+(_[a-z]+)+)>|([be]os|pad|unk|mask|unused\d+)>)"
    r"|\[(?=/?(INST|THINK|[A-Z]+(_[A-Z]+)+)\])"
)
CONTEXT_EXCEEDED = re.compile(r"(?i)status (400|413|422): .*(context|too long|too large)")


class ServerBackend:
    """A model on an OpenAI-compatible server."""

    tokenizer = None
    context = sys.maxsize  # unknown; see `generate`

    def __init__(self, base_url, model, style=None):
        self.endpoint = Endpoint(base_url, model)
        self.style = style if isinstance(style, Style) else load_style(style or "rrm")
        self.opens_think = False  # the server's template ends with <think>
        self.warned = False
        self.usage = self.endpoint.usage

    def check_texts(self, pairs):
        if not self.warned:
            self.warned = True
            note(
                "the server renders the chat template: control tokens inside answers are broken "
                "up, but other forgeries cannot be excluded"
            )

    def encode(self, messages):
        return [message | {"content": disarm(message["content"])} for message in messages]

    def generate(
        self,
        prompts,
        seeds,
        num_generations,
        max_new_tokens,
        temperature,
        progress=None,
    ):
        """Records [prompt][generation], see `verdicts.read_verdict`; seeds: integers for each.

        A prompt that the server's context cannot hold counts as truncated. Raises BadInput where
        another request failed for good.
        """
        requests = [
            {
                "messages": prompt,
                "max_tokens": max_new_tokens,
                "temperature": temperature,
                "seed": (stable_hash(*seed) + generation) % 2**31,
            }
            for prompt, seed in zip(prompts, seeds, strict=True)
            for generation in range(num_generations)
        ]
        replies = self.complete(requests, progress)
        self.restore_think_tags(replies)
        groups = [
            replies[start : start + num_generations]
            for start in range(0, len(replies), num_generations)
        ]
        if temperature > 0:
            self.note_equal_replies(groups)
        return [[self.read(reply) for reply in group] for group in groups]

    def complete(self, requests, progress):
        """The replies in the order of the requests."""
        url, replies = self.endpoint.url, [None] * len(requests)
        for done, (index, reply) in enumerate(self.endpoint.complete(requests), start=1):
            replies[index] = reply
            if progress:
                progress(done, len(requests))
        for reply in replies:  # one prompt that is too long must not cost all the others
            if reply.error and CONTEXT_EXCEEDED.match(reply.error):
                note(f"{url}: {reply.error}: counted as truncated")
                reply.error, reply.finish_reason = None, "length"
        errors = [reply.error for reply in replies if reply.error]
        if errors:
            raise BadInput(
                f"--base_url: {url}: {len(errors)} of {len(requests)} requests failed; the first: "
                f"{errors[0]}: look after the server, then call again"
            )
        return replies

    def restore_think_tags(self, replies):
        """Puts "<think>" in front of texts whose prompt had opened it.

        A server does not say so, but then a finished text shows the closing tag alone. One that was
        cut off shows no tag at all, hence one finished text decides for all.
        """
        untagged = [reply for reply in replies if "<think>" not in reply.text]
        if any("</think>" in reply.text for reply in untagged):
            self.opens_think = True
        if self.opens_think:
            for reply in untagged:
                reply.text = "<think>" + reply.text

    def note_equal_replies(self, groups):
        if len(groups) < 2 or len(groups[0]) < 2:
            return
        if all(len({reply.text for reply in group}) == 1 for group in groups):
            note(
                f"{self.endpoint.url}: all generations of each prompt are alike: the server may "
                "ignore temperature and seed, so that votes mean nothing"
            )

    def read(self, reply):
        """The record of a reply; think_tokens by the share of characters (no token is shown)."""

        def count_tokens(end):
            return reply.tokens * end // len(reply.text)

        record = read_verdict(
            reply.text, self.style, reply.tokens, reply.finish_reason, count_tokens
        )
        return record | {"prompt_tokens": reply.prompt_tokens or None}  # None: it does not say


def disarm(text):
    """Puts a blank into whatever a server may read as a control token: <think>, </s>, [INST], ...

    The server renders the template and then searches the whole text for such tokens. It may know
    others than these.
    """
    return CONTROL_TOKEN_START.sub(lambda match: match[0] + " ", text)
