"""Continue a text token by token with a GPT or with Branch-Train-Merge, and yield the routing of each pass."""
import torch


class Cache:
    """What a model keeps of the text so far. Make one for the first pass, and give it to every later pass as well."""

    def __init__(self):
        self.length = 0  # tokens read so far
        self.tensors = {}

    def append(self, name, new, dim):
        """Append the tensor of new tokens to the one kept under a name, along the token axis. Returns the result."""
        if name in self.tensors:
            new = torch.cat([self.tensors[name], new], dim=dim)
        self.tensors[name] = new
        return new


@torch.inference_mode()
def stream(model, idx, max_new_tokens, temperature=0.0, generator=None):
    """Yield (token, routing) for each new token. token: (B, 1) int64; routing: that of the pass that predicted it.

    idx: (B, T) int64, the text so far. temperature 0 takes the likeliest token; otherwise a token is drawn. When
    block_size is reached, the model forgets the older half of the text and reads the rest again.
    """
    cache, new = Cache(), idx
    for _ in range(max_new_tokens):
        if cache.length >= model.config.block_size:
            half = model.config.block_size // 2
            cache, new = Cache(), idx[:, -half - 1:]  # the newer half, and the token just written
        logits, _, routing = model(new, cache=cache, n_last=1)
        logits = logits[:, -1]  # (B, V)
        if temperature > 0:
            probs = (logits / temperature).softmax(-1)
            new = torch.multinomial(probs, 1, generator=generator)  # (B, 1)
        else:
            new = logits.argmax(-1, keepdim=True)  # (B, 1)
        idx = torch.cat([idx, new], dim=1)
        yield new, routing


def generate(model, idx, max_new_tokens, end=None, **options):
    """Continue idx, (B, T), by max_new_tokens, or until every row has written `end`. Options as in `stream`."""
    tokens = []
    has_ended = torch.zeros(len(idx), 1, dtype=torch.bool, device=idx.device)
    for token, _ in stream(model, idx, max_new_tokens, **options):
        tokens.append(token)
        if end is not None:
            has_ended |= token == end
            if has_ended.all():
                break
    return torch.cat([idx, *tokens], dim=1)  # (B, T + new tokens)
