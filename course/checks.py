"""A solution of stage 6: invariants that hold whatever the numbers are."""
import math

import torch
from torch.nn.functional import one_hot

SHAPE = {"vocab_size": 16, "block_size": 8, "n_layer": 2, "n_head": 2, "n_embd": 8, "d_ff": 12}


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def is_close(a, b):
    return a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=1e-4, atol=1e-5)


def new_layer(model, k=2, routing="topk"):
    """An MoE layer of four experts in float64."""
    layer = model.MoE(model.GPTConfig(**SHAPE, n_expert=4, top_k=k, routing=routing), layer=1).double()
    for p in layer.parameters():
        torch.nn.init.normal_(p)
    return layer


def check_tokens_do_not_see_each_other(model):
    for routing in ("topk", "switch", "sample"):
        layer, x = new_layer(model, routing=routing).eval(), draw(3, 5, 8)
        y, whole = layer(x)
        alone = [layer(token.view(1, 1, 8)) for token in x.view(15, 8)]
        assert is_close(y, torch.cat([one for one, _ in alone]).view(3, 5, 8))
        assert is_close(whole.dense_gates(), torch.cat([one.dense_gates() for _, one in alone]))


def check_all_experts_are_soft_routing(model):
    """SoftMax(TopK) of all N logits is SoftMax."""
    layer, x = new_layer(model, k=4), draw(2, 3, 8)
    y, top = layer(x)
    layer.router_kind = "soft"
    assert is_close(y, layer(x)[0]) and is_close(top.probs, top.dense_gates())
    assert is_close(top.probs, (x.view(6, 8) @ layer.router.T).softmax(-1))


def check_equal_experts_are_one_dense_layer(model):
    layer, x = new_layer(model, k=3), draw(2, 5, 8)
    for p in (layer.w_gate, layer.w_up, layer.w_down):
        p.data[:] = p.data[0].clone()
    assert is_close(layer(x)[0], model.swiglu(x, layer.w_gate[0], layer.w_up[0], layer.w_down[0]))


def check_experts_are_weighted_and_added(model):
    """Whatever the gates. Experts 1 and 3 have no token, so they get no gradient."""
    layer, x, calls, swiglu = new_layer(model), draw(1, 6, 8), [], model.swiglu
    gates = draw(6, 2).sigmoid().requires_grad_()
    layer.route = lambda z, noise=None: model.Routing(gates, torch.tensor([[0, 2]]).expand(6, 2), z.softmax(-1))
    outputs = [swiglu(x[0], layer.w_gate[i], layer.w_up[i], layer.w_down[i]) for i in (0, 2)]

    def count(x, *args, **named):
        calls.append(len(x))
        return swiglu(x, *args, **named)
    model.swiglu = count
    y, _ = layer(x)
    assert is_close(y[0], gates[:, :1] * outputs[0] + gates[:, 1:] * outputs[1])
    assert sum(calls) == 12 and len(calls) <= 8, "each expert computes its tokens at once"
    y.sum().backward()
    assert is_close(gates.grad, torch.stack([output.sum(1) for output in outputs], 1))
    assert layer.w_up.grad[2].any() and not layer.w_up.grad[1].any() and not layer.w_up.grad[3].any()


def check_gates_are_proportional_to_exp(model):
    z = draw(7, 5)
    routing = model.route_topk(z, 3)
    kept = z.gather(1, routing.experts)
    assert is_close(routing.gates.log() - routing.gates.log()[:, :1], kept - kept[:, :1])
    assert is_close(kept.sort(1, descending=True)[0], z.topk(3)[0])


def check_gradients_are_finite_differences(model):
    layer, x = new_layer(model), draw(2, 3, 8).requires_grad_()
    inputs = [x, *layer.parameters()]

    def loss():
        y, routing = layer(x)
        return y.sin().sum() + (routing.probs**2).sum()
    loss().backward()
    for p in inputs:
        step = 1e-5 * draw(*p.shape)
        p.data += step
        above = loss()
        p.data -= 2 * step
        below = loss()
        p.data += step
        assert p.grad is not None and torch.allclose((p.grad * step).sum(), (above - below) / 2, rtol=0.03)


def check_capacity(model):
    """An expert keeps the surest of its tokens, at most ceil(1.5 M / N)."""
    for M in (1, 7, 8):
        z = draw(M, 4) + torch.tensor([2.0, 0, 0, 0])
        best, chosen = z.softmax(1).max(1)
        assert is_close(model.route_switch(z, False).gates[:, 0], best)
        routing = model.route_switch(z, True)
        for i in range(4):
            surest = best[chosen == i].sort(descending=True)[0][:math.ceil(1.5 * M / 4)]
            kept = routing.gates[:, 0][chosen == i]
            assert is_close(kept[kept > 0].sort(descending=True)[0], surest) and is_close(routing.probs, z.softmax(1))


def check_an_expert_is_sampled_with_its_probability(model):
    z = torch.tensor([[1.0, 0.0, 2.0, -1.0]]).expand(4000, 4)
    noise = model.gumbel(model.GPTConfig(**SHAPE, n_expert=4), 4000, 0.5, torch.Generator().manual_seed(1))[0]
    for training in (True, False):
        routing = model.route_sample(z, training, noise)
        frequency = one_hot(routing.experts[:, 0], 4).float().mean(0)
        assert torch.allclose(frequency, z[0].softmax(0), atol=0.03) and is_close(routing.probs, z.softmax(1))
        gates = ((z + noise.G) / 0.5).softmax(1).max(1)[0] if training else torch.ones(4000)
        assert is_close(routing.gates[:, 0], gates)
    assert (model.route_sample(z, False).experts == 2).all()
    layer, chosen = new_layer(model, routing="sample"), torch.tensor([0, 1, 2, 3, 0, 1])
    _, routing = layer(draw(2, 3, 8), model.Noise(1000.0 * one_hot(chosen, 4), 1.0))
    assert torch.equal(routing.experts[:, 0], chosen)


def check_even_loads_give_1_and_collapse_N(model):
    even, collapsed = torch.full((1, 4), 0.25), torch.tensor([[0.0, 1, 0, 0]])
    for u, p, want in ((even, even, 1.0), (collapsed, collapsed, 4.0), (even, collapsed, 1.0)):
        assert is_close(model.load_balancing_loss(u, p), torch.tensor(want))
    both = torch.cat([even, collapsed])
    assert is_close(model.load_balancing_loss(both, both), torch.tensor(5.0)), "summed over layers"


def check_loads_are_means_over_tokens(model):
    """In each of three layers, with gradients, even if the last expert has no token."""
    gates, probs = draw(3, 6, 2).requires_grad_(), draw(3, 6, 4).softmax(-1).requires_grad_()
    routing = [model.Routing(g, torch.tensor([[2, 0]]).expand(6, 2), p) for g, p in zip(gates, probs, strict=True)]
    u, p = model.mean_gates_and_probs(routing)
    assert is_close(u[:, [2, 0]], gates.mean(1)) and not u[:, [1, 3]].any() and is_close(p, probs.mean(1))
    model.load_balancing_loss(u, p).backward()
    assert is_close(gates.grad, 4 / 6 * p[:, None, [2, 0]].expand(3, 6, 2))
    assert is_close(probs.grad, 4 / 6 * u[:, None].expand(3, 6, 4))


def check_a_mixture_of_copies_is_the_copy(model, mix):
    """Mixed in any way, with gates of 1/N where the parts must be equal."""
    dense, idx = model.GPT(model.GPTConfig(**SHAPE), torch.Generator().manual_seed(0)), torch.arange(8)[None]
    for how, changes in (("averaged", {}), ("stacked", {"n_expert": 3}), ("blended", {"n_expert": 3, "top_k": 3}),
                         ("split", {"n_expert": 6, "d_ff": 6, "top_k": 6})):
        config = model.GPTConfig(**(SHAPE | changes))
        mixed = mix.mix([dense.state_dict()] * 3, config, torch.Generator().manual_seed(0), how)
        if how in ("split", "blended"):
            for name in mixed:
                if name.endswith("router"):
                    mixed[name] *= 0
        network = model.GPT(config)
        network.load_state_dict(mixed)
        assert torch.allclose(network(idx)[0], dense(idx)[0], atol=1e-4), how


def check_each_tensor_of_a_mixture(model, mix):
    """Experts keep the order of the models; the rest is the mean, in float32; routers are drawn one after another."""
    config = model.GPTConfig(**SHAPE, n_expert=3)
    states = [model.GPT(model.GPTConfig(**SHAPE), torch.Generator().manual_seed(i)).state_dict() for i in range(3)]
    states = [{name: t.bfloat16() for name, t in state.items()} for state in states]
    mixed = [mix.mix(states, config, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    for name, t in mixed[0].items():
        assert t.dtype == torch.float32
        if "router" in name:
            assert torch.equal(t, mixed[1][name]) and not torch.equal(t, mixed[2][name]) and t.std() > 0
            assert t.shape == (3, 8)
        elif ".ff.w_" in name:
            assert is_close(t, torch.stack([state[name] for state in states]))
        else:
            assert is_close(t, sum(state[name].float() for state in states) / 3)
    assert not torch.equal(mixed[0]["blocks.0.ff.router"], mixed[0]["blocks.1.ff.router"])


def check_parts_keep_their_order(mix):
    tensors = [draw(6, 3).float(), draw(6, 3).float(), draw(6, 3).float()]
    parts, blended = mix.split("blocks.0.ff.w_up", tensors, 2), mix.blend("blocks.0.ff.w_up", tensors)
    assert torch.equal(parts.view(18, 3), torch.cat(tensors)) and torch.equal(blended[1, 2:4], tensors[1][2:4])
    turned = [t.T for t in tensors]
    assert torch.equal(mix.split("blocks.0.ff.w_down", turned, 2).mT / 2, parts)
    assert torch.equal(mix.blend("blocks.0.ff.w_down", turned).mT, blended)
