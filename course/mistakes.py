"""Plausible mistakes, each a small change of the reference. Checks recognise them, and the course's tests use them."""
import importlib.util
import inspect
import io
import json
import tempfile
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest

from cli import digest, replacing
from course import test_stages
from course.handout import ROOT


class Mistake(NamedTuple):
    """Write `new` for `old` in `file`, and stage `stage` is wrong. A check that sees this prints `hint`."""
    stage: int
    file: str
    old: str
    new: str
    hint: str


CATALOGUE = [  # (stage, file, what stands in it once, [(what to write instead, hint), ...])
    (1, "model.py", "logits = F.linear(tokens, self.router)  # W_l x, (M, N)", [
        ("logits = F.linear(tokens, self.router).softmax(-1)", "pass W x to self.route without a softmax"),
        ("logits = F.linear(F.normalize(tokens, dim=-1), self.router)", "do not normalise x before the router"),
        ("logits = F.linear(tokens, self.router) / 6 ** 0.5", "do not scale W x"),
        ("logits = F.linear(tokens.detach(), self.router)", "a detach cuts the gradient to the layers below")]),
    (1, "model.py", "routing = self.route(logits, self.k, self.training, noise)", [
        ("routing = self.route(logits, self.k)", "give self.route all four: logits, self.k, self.training, noise")]),
    (1, "model.py", "y = self.ff_moe(tokens, routing, self.w_gate, self.w_up, self.w_down)", [
        ("y = ff_moe(tokens, routing, self.w_gate, self.w_up, self.w_down)", "--fast replaces self.ff_moe: call that"),
        ("y = tokens + self.ff_moe(tokens, routing, self.w_gate, self.w_up, self.w_down)",
         "the residual is added in Block, not here"),
        ("y = self.ff_moe(tokens, routing, self.w_up, self.w_gate, self.w_down)", "w_gate and w_up are exchanged")]),
    (2, "mix.py", "mixed[name] = torch.stack([t.float() for t in tensors])  # (N, *shape)", [
        ("mixed[name] = torch.stack([t.float() for t in tensors[::-1]])", "expert i is FF_i of model i: keep order"),
        ("mixed[name] = torch.stack(tensors)", "convert to float32 before you stack")]),
    (2, "mix.py", "mixed[name] = new_router(config.n_expert, config.n_embd, generator)  # (N, D)", [
        ("mixed[name] = torch.zeros(config.n_expert, config.n_embd)", "with zeros all experts are alike: draw it"),
        ("mixed[name] = 50 * new_router(config.n_expert, config.n_embd, generator)", "these numbers are so large "
         "that gates start near 0 and 1: use new_router"),
        ("mixed[name] = new_router(config.n_embd, config.n_expert, generator)", "a router is (N, D)")]),
    (3, "finetune_router.py", "loss = nll + args.alpha * load_balancing_loss(routing)  # (3.3)", [
        ("loss = nll", "the load-balancing loss is missing"),
        ("loss = nll - args.alpha * load_balancing_loss(routing)", "add the load-balancing loss, do not subtract it"),
        ("loss = nll + load_balancing_loss(routing)", "alpha is missing"),
        ("loss = args.alpha * load_balancing_loss(routing)", "the language model's loss is missing"),
        ("loss = nll + args.alpha * load_balancing_loss(routing) / config.n_layer", "sum L_LB over layers: no mean"),
        ("loss = nll + args.alpha * load_balancing_loss(routing[-1:])", "give it the routing of all layers")]),
    (5, "finetune_router.py", "noise=noise, recompute", [("recompute", "the model does not get the noise")]),
    (5, "finetune_router.py", "temperature(step / args.steps)", [("temperature(step)", "share is step / steps")]),
    (3, "finetune_router.py", "(loss / args.grad_accum).backward()", [
        ("loss.backward()", "the mean over the parts of a batch: divide the loss by --grad_accum")]),
    (3, "finetune_router.py", "        training.clip_gradients(optimizer)\n        optimizer.step()", [
        ("        optimizer.step()", "clip the gradients before optimizer.step()"),
        ("        optimizer.step()\n        training.clip_gradients(optimizer)", "clip the gradients "
         "before optimizer.step()")]),
    (3, "finetune_router.py", "        optimizer.zero_grad()", [
        ("", "zero the gradients, or each step adds those of all before it")]),
    (1, "model.py", "Routing(kept.softmax(-1), ", [
        ("Routing(logits.softmax(-1).gather(-1, experts), ",
         "the softmax goes over the k kept logits: these gates do not sum to 1"),
        ("Routing(torch.full_like(kept, 1 / top_k), ", "all gates are 1 / k: the router can learn nothing"),
        ("Routing(torch.ones_like(kept), ", "the gates are fixed at 1"),
        ("Routing(kept.softmax(-1).detach(), ",
         "a detach cuts the gradient through the gates: the router would learn nothing from the language model")]),
    (1, "model.py", "Routing(kept.softmax(-1), experts, logits.softmax(-1))", [
        ("Routing(kept.softmax(-1), experts, torch.zeros_like(logits).scatter(-1, experts, kept.softmax(-1)))",
         "probs is over all N experts; these are the gates")]),
    (1, "model.py", "logits.topk(top_k, dim=-1)", [
        ("logits.topk(top_k, dim=-1, largest=False)", "these are the smallest logits"),
        ("logits.topk(1, dim=-1)", "only one expert is chosen, whatever k is")]),
    (1, "model.py", "y.index_add_(0, token, (g_i * FF_i).to(y.dtype))", [
        ("y.index_add_(0, token, FF_i.to(y.dtype))", "the experts' results are added without their gates"),
        ("y[token] = (g_i * FF_i).to(y.dtype)", "a token's second expert overwrites its first: add them up"),
        ("y[:len(token)] = y[:len(token)] + (g_i * FF_i).to(y.dtype)",
         "the order of dispatch is not undone: results must go back to the places of their tokens"),
        ("y.index_add_(0, token, (g_i ** 3 * FF_i).to(y.dtype))",
         "the gate counts three times, as with a router on each of the three projections")]),
    (1, "model.py", "g_i = routing.gates[token, choice, None] ", [
        ("g_i = routing.gates[token, choice * 0, None] ", "the first choice's gate is used for every choice"),
        ("g_i = routing.gates[token, choice, None].detach() ", "a detach cuts the gradient through the gates")]),
    (1, "model.py", "FF_i = swiglu(x[token], *expert) ", [
        ("FF_i = swiglu(x[token].detach(), *expert) ", "a detach cuts the gradient to the layers below"),
        ("FF_i = swiglu(x[token], w_gate[0], w_up[0], w_down[0]) ", "every token goes through the first expert"),
        ("FF_i = swiglu(x, *expert)[token] ", "each expert computes the tokens that chose it, and no others"),
        ("FF_i, g_i = swiglu(g_i * x[token], *expert), 1 ", "the gate scales an expert's output, not its input")]),
    (3, "model.py", "return routing.dense_gates().mean(0)", [
        ("return (routing.dense_gates() > 0).to(routing.gates.dtype).mean(0)",
         "u_i counts how often an expert was chosen; the paper's is the mean of its gates"),
        ("return routing.dense_gates().sum(0)", "u_i is a mean over tokens, not a sum"),
        ("return routing.dense_gates().sum(0) / (routing.dense_gates() > 0).sum(0).clamp_min(1)",
         "u_i is a mean over all tokens, not only over those that chose expert i"),
        ("return routing.probs.mean(0)", "u_i is made of the gates; these are the probabilities, p_i")]),
    (4, "model.py", "return N * (u * p).sum()", [
        ("return N * sum((layer.dense_gates() * layer.probs).mean(0).sum() for layer in routing)",
         "a mean of products; L_LB is a product of two means"),
        ("return N * (u[-1] * p[-1]).sum()", "each layer has a loss of its own, not the last alone"),
        ("return (u * p).sum()", "the factor N is missing: at balance the loss is 1 a layer"),
        ("return len(u) * (u * p).sum()", "N is the number of experts, not of layers"),
        ("return N * (u * p).sum(1).mean()", "sum over layers; this is their mean"),
        ("return N * (u.mean(0) * p.mean(0)).sum() * len(u)", "pooled over layers: each layer has a loss of its own"),
        ("return N * (u.detach() * p).sum()", "the gradient goes through u, too"),
        ("return N * (u * p.detach()).sum()", "the gradient goes through p, too")]),
    (2, "mix.py", "return sum(t.float() for t in tensors) / len(tensors)", [
        ("return tensors[0].float()", "copied from the first model instead of averaged"),
        ("return sum(tensors).float() / len(tensors)", "summed in the models' own precision; take it in float32"),
        ("return torch.stack(tensors).mean(0)", "averaged in bfloat16; take averages in float32"),
        ("return sum(t.float() for t in tensors)", "that is the sum")]),
    (2, "mix.py", '    if ".ff." in name:', [
        ('    if "ff" in name:', "a name test that also catches ff_norm, which is averaged"),
        ('    if ".attn." not in name:', "only attention is averaged here; embeddings are, too")]),
    (2, "mix.py", 'return "expert"', [('return "averaged"', "feed-forwards become experts")]),
    (2, "mix.py", 'if rule == "averaged" or feed_forwards == "averaged":', [
        ('if rule == "averaged":', "the soup, feed_forwards=\"averaged\", averages feed-forwards, too")]),
    (5, "model.py", "gates, experts = probs.max(-1, keepdim=True)", [
        ("gates, experts = torch.ones_like(probs[:, :1]), probs.argmax(-1, keepdim=True)",
         "the gate is fixed at 1, so the router gets no gradient: Switch's is the probability"),
        ("gates, experts = logits.max(-1, keepdim=True)", "the gate is a probability, not a logit")]),
    (5, "model.py", "(place.gather(1, experts) < capacity)", [
        ("(F.one_hot(experts[:, 0], N).cumsum(0).gather(1, experts) <= capacity)",
         "an expert keeps the tokens with the largest gates, not those that come first")]),
    (5, "model.py", "math.ceil(CAPACITY_FACTOR * M / N)", [
        ("math.floor(CAPACITY_FACTOR * M / N)", "round the capacity up, or an expert may get no token at all"),
        ("math.ceil(M / N)", "the capacity factor is missing"),
        ("M", "this capacity drops nobody: it is ceil(1.5 M / N)")]),
    (5, "model.py", "all_gates = Routing(gates, experts, probs).dense_gates()", [
        ("all_gates = probs", "rank only the tokens that chose the expert, not all tokens")]),
    (5, "model.py", "    if training:\n        capacity", [
        ("    if True:\n        capacity", "in evaluation no token is dropped")]),
    (5, "model.py", "(logits + noise.G) / noise.tau", [
        ("(logits + noise.G) * noise.tau", "divide by tau: a low temperature makes the choice surer"),
        ("logits + noise.G / noise.tau", "tau divides the logits, too"),
        ("(logits - noise.G) / noise.tau", "the noise has the wrong sign"),
        ("(logits / noise.tau)", "nothing is drawn: G is left out")]),
    (5, "model.py", "gates, experts = g.max(-1, keepdim=True)", [
        ("experts = g.argmax(-1, keepdim=True)\n    gates = logits.softmax(-1).gather(1, experts)",
         "the gate is that of the noisy softmax, not the plain probability")]),
    (5, "model.py", "return Routing(gates, experts, logits.softmax(-1))", [
        ("return Routing(gates, experts, g)", "probs are without noise")]),
    (5, "model.py", "    if not training:\n        gates = torch.ones_like(gates)\n", [
        ("", "in evaluation the gate is 1: hard sampling"),
        ("    gates = torch.ones_like(gates)\n", "in training the gate is the sample's value; 1 has no gradient")]),
    (5, "finetune_router.py", "max(0.5, math.exp(-r * t))", [
        ("max(0.5, math.exp(r * t))", "tau grows: the sign of r t is wrong"),
        ("max(0.5, -r * t)", "as printed in the paper: always 0.5"),
        ("min(0.5, math.exp(-r * t))", "0.5 is the lowest tau, not the highest")]),
    (6, "mix.py", '    if name.endswith("w_down"):', [
        ('    if name == "w_down":', "name is a path such as blocks.0.ff.w_down: use name.endswith")]),
    (6, "mix.py", "[chunk for t in tensors for chunk in t.float().chunk(C, dim=d_ff_axis(name))]", [
        ("[chunk for t in tensors for chunk in t.float().chunk(C)]", "cut along d_ff, which is w_down's second axis"),
        ("[t.float().chunk(C, dim=d_ff_axis(name))[i] for i in range(C) for t in tensors]",
         "the order: first all chunks of model 0, then all of model 1")]),
    (6, "mix.py", "zip(*chunks, strict=True)", [
        ("chunks", "expert n needs the n-th chunk of every model; here all its chunks come from one model")])]

MISTAKES = []
for stage, file, old, changes in CATALOGUE:
    MISTAKES += [Mistake(stage, file, old, new, hint) for new, hint in changes]


def variant(mistake):
    """A module of the reference with one mistake in it."""
    source = (ROOT / mistake.file).read_text()
    if source.count(mistake.old) != 1:
        raise ValueError(f"{mistake.file} has {mistake.old!r} {source.count(mistake.old)} times")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, mistake.file)
        path.write_text(source.replace(mistake.old, mistake.new))
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def messages(mistake=None, stages=range(1, 7)):
    """What the checks of some stages say of the reference with a mistake in it: {check: message}; {} if it is right."""
    found = {}
    with ExitStack() as patches:
        patches.enter_context(mock.patch.object(test_stages, "HINTS", Path("none")))
        patches.enter_context(redirect_stdout(io.StringIO()))
        patches.enter_context(redirect_stderr(io.StringIO()))
        if mistake:
            patches.enter_context(mock.patch.object(test_stages, Path(mistake.file).stem, variant(mistake)))
        for name, check in vars(test_stages).items():
            if not name.startswith("test_stage") or int(name[10]) not in stages:
                continue
            with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as monkeypatch:
                fixtures = {"tmp_path": Path(folder), "monkeypatch": monkeypatch}
                try:
                    check(**{name: fixtures[name] for name in inspect.signature(check).parameters})
                except pytest.fail.Exception as failure:
                    found[name] = str(failure).rstrip()
                except Exception as error:
                    found[name] = repr(error)
    return found


def main():
    """Write hints.json: for each message of a check the mistake that gives it. `make hints` does it."""
    hints = {}
    for mistake in MISTAKES:
        for message in messages(mistake, [mistake.stage]).values():
            hints.setdefault(digest(message.encode()), []).append(mistake.hint)
    with replacing(test_stages.HINTS) as part:
        texts = {key: "\n  or: ".join(dict.fromkeys(found)) for key, found in hints.items()}
        part.write_text(json.dumps(texts, indent=0))


if __name__ == "__main__":
    main()
