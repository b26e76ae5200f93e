"""The network: a causal sequence model of journeys with three decoders.

    network = MTORL(MTORLConfig(inputs=encoder.dim, channels=4, window=20, outcomes=len(encoder.seen)))
    logits_BC, reward_BC, cost_BC = network(x_BTD, length_B)  # serving: the last real step of each window
    network.forward_logged(x_BTD, channel_BT)                 # training: every real step, at its logged channel

Reading order: `MTORL` at the end, then its parts: `CausalConv`, `CausalAttention`, `ChannelMemory`, `Decoder`.

These parts come from the paper (Liu et al., KDD 2025, arXiv:2506.23090): the embedding of (a_{t-1}, r_{t-1}, s_t), the
dilated causal convolutions, causal attention over their outputs inside residual + LayerNorm blocks, and decoders for
action and reward that are trained together on labels, without bootstrapping.

The following choices are ours. The decision rule needs them, or measurements have shown that they help:

- The reward decoder predicts the reward of *each channel*, because a policy must compare channels.
- A third decoder predicts the cost of each channel, because a budget is spent in currency and not in exposures.
- Decoders also read a memory of each channel: decaying sums of its exposures and of their outcomes. The weights that
  read the memory are the same for all channels, so patterns learned on one channel ("a user who clicked will click
  again", "a user who saw too many ads will not") apply to the other channels.
- All decoders read the output of the same trunk, but have no weights in common. Nor have the blocks of the trunk.
- There is no position encoding, because the convolutions give the attention's inputs an order, and the memory counts
  the touchpoints of a window.
- Dropout is applied only to residual branches, and only in training. It is never applied to attention scores, because
  dropping a masked score would make the future visible.
- The default hidden width is 64 (published code: 512), so that training takes seconds; the config can change it.
- Stored features bypass the sequence layers: they are added to the state that the decoders read. A served window has
  stored features only at the last token, so the values at earlier tokens must not matter.

Windows are padded on the right. Every layer is causal, so no real step can see the padding and no mask is needed.

Two parts depend on the layout of a token (`mtorl.window.encoder.Encoder`). For the channel memory, the first C columns
are the one-hot of the previous channel, column C marks the start of a journey, column C + 1 is the reward of the
previous touchpoint, and the next `outcomes` columns are its outcomes. The last `stored` columns are the stored
features.

Shape suffixes: B batch, T steps of a window, D encoded token, H hidden, C channels, A heads of the attention, E size of
a head, K decay rates, S signals of the memory, M memory, P tokens that may follow a window, J taps before the last.
"""

import math
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Number of steps that a convolution combines. Two convolutions together see 10 steps, and the attention sees all steps.
KERNEL = 4
# K, the number of decay rates of the channel memory.
RATES = 3


@dataclass(frozen=True)
class MTORLConfig:
    """Sizes and switches of the network. Sizes that users can set are validated earlier, in `TrainConfig`.

    Attributes:
        inputs: D, the width of an encoded token.
        channels: C, the number of channels.
        window: Largest number of steps in a window.
        outcomes: Number of columns with outcomes of the previous touchpoint, which follow the reward in a token.
        stored: Number of columns with stored features, which are at the end of a token.
        hidden: H, the width of a state.
        levels: Number of causal convolutions; each has twice the dilation of the previous one.
        heads: Number of attention heads.
        cost_scale: The cost decoder predicts multiples of this amount; training sets it to the mean cost.
    """

    inputs: int
    channels: int
    window: int
    outcomes: int
    stored: int = 0
    hidden: int = 64
    levels: int = 2
    heads: int = 4
    dropout: float = 0.1
    convolutions: bool = True
    attention: bool = True
    cost_scale: float = 1.0


class CausalConv(nn.Module):
    """A causal convolution with a residual connection: LayerNorm(h_t + dropout(gelu(sum_k W_k h_{t - k dilation})))."""

    def __init__(self, hidden: int, kernel: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.reach = (kernel - 1) * dilation
        self.conv = nn.Conv1d(hidden, hidden, kernel, dilation=dilation)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(hidden)

    def forward(self, h_BTH: Tensor) -> Tensor:
        """Apply the convolution to each step and the steps before it. Steps before the start of a window are zeros."""
        out_BTH = self._as_product(h_BTH) if torch.compiler.is_exporting() else self._convolved(h_BTH)
        normed: Tensor = self.norm(h_BTH + self.dropout(F.gelu(out_BTH)))
        return normed

    def after(self, h_BTH: Tensor, length_BP: Tensor, next_BPH: Tensor) -> Tensor:
        """Return the output at an additional step, `next_BPH`, after the first `length_BP` steps of its window."""
        lags_J = torch.arange(self.reach, 0, -self.conv.dilation[0], device=h_BTH.device)
        step_BPJ = length_BP[..., None] - lags_J
        row_B11 = torch.arange(len(h_BTH), device=h_BTH.device)[:, None, None]
        taps_BPJH = h_BTH[row_B11, step_BPJ.clamp(min=0)] * (step_BPJ >= 0)[..., None]
        taps_BPN = torch.cat([taps_BPJH.flatten(2), next_BPH], dim=-1)
        out_BPH = F.linear(taps_BPN, self.conv.weight.transpose(1, 2).flatten(1), self.conv.bias)
        normed: Tensor = self.norm(next_BPH + self.dropout(F.gelu(out_BPH)))
        return normed

    def _convolved(self, h_BTH: Tensor) -> Tensor:
        past_BHT = F.pad(h_BTH.transpose(1, 2), (self.reach, 0))
        out_BHT: Tensor = self.conv(past_BHT)
        return out_BHT.transpose(1, 2)

    def _as_product(self, h_BTH: Tensor) -> Tensor:
        """Compute the convolution as one matrix product, for the graph that is exported to onnxruntime.

        In onnxruntime, a convolution rounds differently depending on the number of steps. The product gives
        bit-identical results for any number of steps. It is faster in onnxruntime, but slower in torch.
        """
        past_BTH = F.pad(h_BTH, (0, 0, self.reach, 0))
        lags = range(self.reach, -1, -self.conv.dilation[0])
        taps = torch.cat([past_BTH[:, self.reach - lag : -lag or None] for lag in lags], dim=-1)
        return F.linear(taps, self.conv.weight.transpose(1, 2).flatten(1), self.conv.bias)


class CausalAttention(nn.Module):
    """Multi-head causal self-attention, followed by a feed-forward layer that is applied to each step.

    Each head computes softmax(Q K^T / sqrt(d) + causal mask) V. Both layers have a residual connection and LayerNorm.
    """

    def __init__(self, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(hidden, 3 * hidden)
        self.out = nn.Linear(hidden, hidden)
        self.feed_forward = nn.Sequential(nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, hidden))
        self.attention_norm = nn.LayerNorm(hidden)
        self.output_norm = nn.LayerNorm(hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h_BTH: Tensor) -> Tensor:
        """Let each step attend to itself and to all earlier steps, but not to the padding, which comes last."""
        batch, steps, hidden = h_BTH.shape
        split = self.query_key_value(h_BTH).view(batch, steps, 3, self.heads, hidden // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self._blocks(h_BTH, attended.transpose(1, 2).reshape(batch, steps, hidden))

    def at(self, h_BTH: Tensor, step_B: Tensor) -> Tensor:
        """Return the output (B, H) at one step of each window, faster than `forward`, which computes all steps.

        It avoids computing the keys and values of the other steps. For a query q, the score q . (W_key h_t + b_key)
        equals (W_key^T q) . h_t plus a constant, which cancels in the softmax. The weights p_t sum to 1, so the
        attended value is W_value (sum_t p_t h_t) + b_value.
        """
        hidden = h_BTH.shape[2]
        own_BH = step_of(h_BTH, step_B)
        query_AEH, key_AEH, value_AEH = self.query_key_value.weight.view(3, self.heads, -1, hidden)
        query_AE, _, value_AE = self.query_key_value.bias.view(3, self.heads, -1)
        query_BAE = F.linear(own_BH, query_AEH.flatten(0, 1), query_AE.flatten()).view(-1, *query_AE.shape)
        asked_BAH = (query_BAE.transpose(0, 1) @ (key_AEH / math.sqrt(key_AEH.shape[1]))).transpose(0, 1)
        seen_B1T = torch.arange(h_BTH.shape[1], device=h_BTH.device) <= step_B.view(-1, 1, 1)
        score_BAT = (asked_BAH @ h_BTH.transpose(1, 2)).masked_fill(~seen_B1T, -math.inf)
        mean_BAH = score_BAT.softmax(-1) @ h_BTH
        attended_BAE = (mean_BAH.transpose(0, 1) @ value_AEH.transpose(1, 2)).transpose(0, 1) + value_AE
        return self._blocks(own_BH, attended_BAE.flatten(1))

    def after(self, h_BTH: Tensor, length_BP: Tensor, next_BPH: Tensor) -> Tensor:
        """Return the output at an additional step, `next_BPH`, after the first `length_BP` steps of its window."""
        query_BPH, key_BPH, value_BPH = self.query_key_value(next_BPH).chunk(3, dim=-1)
        _, key_BTH, value_BTH = self.query_key_value(h_BTH).chunk(3, dim=-1)
        query, key, value, own_key, own_value = (
            x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, A, P or T, E)
            for x in (query_BPH, key_BTH, value_BTH, key_BPH, value_BPH)
        )
        seen_B1PT = (torch.arange(h_BTH.shape[1], device=h_BTH.device) < length_BP[..., None]).unsqueeze(1)
        score_BAPT = (query @ key.transpose(2, 3)).masked_fill(~seen_B1PT, -math.inf)
        score_BAPT1 = torch.cat([score_BAPT, (query * own_key).sum(-1, keepdim=True)], dim=-1)
        weight_BAPT1 = (score_BAPT1 / math.sqrt(query.shape[-1])).softmax(-1)
        attended_BAPE = weight_BAPT1[..., :-1] @ value + weight_BAPT1[..., -1:] * own_value
        return self._blocks(next_BPH, attended_BAPE.transpose(1, 2).flatten(2))

    def _blocks(self, h: Tensor, attended: Tensor) -> Tensor:
        h = self.attention_norm(h + self.dropout(self.out(attended)))
        normed: Tensor = self.output_norm(h + self.dropout(self.feed_forward(h)))
        return normed


class ChannelMemory(nn.Module):
    """Summarises how often each channel was shown recently and what came of it, as sums that decay over time.

        n = sum_{s<=t} decay^(t-s) a_{s-1},  g = sum_{s<=t} decay^(t-s) a_{s-1} o_{s-1}

    n counts exposures, and g sums the reward and each other outcome o, at K learned decay rates. The memory of a
    channel is asinh(n), asinh(g) and the running mean g / (1 + n), followed by the same values for all channels
    together.
    """

    lag_TT: Tensor
    causal_TT: Tensor

    def __init__(self, channels: int, window: int, outcomes: int, rates: int) -> None:
        super().__init__()
        self.channels = channels
        # S, the number of signals: exposure, reward and each outcome.
        self.signals = 2 + outcomes
        # M, the width of the memory of a channel.
        self.width = 2 * rates * (2 * self.signals - 1)
        # decay = sigmoid(logit). At first, the fastest rate remembers about two touchpoints, and the slowest nearly the
        # whole window.
        self.logit_K = nn.Parameter(torch.linspace(0.0, 6.0, rates))
        lag_TT = torch.arange(window)[:, None] - torch.arange(window)[None, :]
        self.register_buffer("lag_TT", lag_TT.clamp(min=0), persistent=False)
        self.register_buffer("causal_TT", lag_TT >= 0, persistent=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return the memory (B, T, C, M) at each step of encoded tokens."""
        steps = x_BTD.shape[1]
        decay_KTT = torch.exp(F.logsigmoid(self.logit_K)[:, None, None] * self.lag_TT) * self.causal_TT
        return self._memory_at(decay_KTT[:, :steps, :steps], x_BTD)

    def at(self, x_BTD: Tensor, step_B: Tensor) -> Tensor:
        """Return the memory (B, C, M) at one step of each window."""
        lag_BT = step_B[:, None] - torch.arange(x_BTD.shape[1], device=x_BTD.device)
        decay_BK1T = torch.exp(F.logsigmoid(self.logit_K)[:, None, None] * lag_BT.clamp(min=0)[:, None, None])
        return self._memory_at(decay_BK1T * (lag_BT >= 0)[:, None, None], x_BTD).squeeze(1)

    def after(self, x_BTD: Tensor, length_BP: Tensor, next_BPD: Tensor) -> Tensor:
        """Return the memory (B, P, C, M) at an additional step, whose token is `next_BPD`.

        The additional step comes after the first `length_BP` steps of its window.
        """
        lag_BPT = length_BP[..., None] - torch.arange(x_BTD.shape[1], device=x_BTD.device)
        decay_BKPT = torch.exp(F.logsigmoid(self.logit_K)[:, None, None] * lag_BPT.clamp(min=0).unsqueeze(1))
        past_BPCKS = self._sums(decay_BKPT * (lag_BPT > 0).unsqueeze(1), x_BTD)
        return self._memory(past_BPCKS + self._signals(next_BPD).unsqueeze(3))

    def _memory_at(self, decay: Tensor, x_BTD: Tensor) -> Tensor:
        """Return the memory at some steps of each window.

        `decay` (..., K, steps, T) contains the weight that each of the T tokens has at each of these steps.
        """
        return self._memory(self._sums(decay, x_BTD))

    def _signals(self, x_BTD: Tensor) -> Tensor:
        """Return exposure, reward and outcomes of the previous touchpoint for each channel (B, T, C, S).

        The values are 0 for all channels except the channel of the previous touchpoint.
        """
        channel_BTC1 = x_BTD[..., : self.channels, None]
        outcome_BT1S = x_BTD[..., None, self.channels + 1 : self.channels + self.signals]
        return torch.cat([channel_BTC1, channel_BTC1 * outcome_BT1S], dim=-1)

    def _sums(self, decay: Tensor, x_BTD: Tensor) -> Tensor:
        sums_BKTS = decay @ self._signals(x_BTD).flatten(2).unsqueeze(1)
        shape = (x_BTD.shape[0], -1, decay.shape[-2], self.channels, self.signals)
        return sums_BKTS.view(shape).permute(0, 2, 3, 1, 4)

    def _memory(self, own_BTCKS: Tensor) -> Tensor:
        sums = torch.cat([own_BTCKS, own_BTCKS.sum(2, keepdim=True).expand_as(own_BTCKS)], dim=3)
        means = sums[..., 1:] / (1 + sums[..., :1])
        # asinh is almost linear for a few touchpoints, and grows like a logarithm for many.
        return torch.cat([torch.asinh(sums), means], dim=-1).flatten(3)


class Decoder(nn.Module):
    """Predicts one number for each channel from the state h and the channel's memory m_c.

    The output for channel c is w . relu(W_state h + W_memory m_c + e_c) + u_c . h + b_c. The weights w, W_state and
    W_memory are shared by all channels, while e_c, u_c and b_c belong to one channel.
    """

    def __init__(self, hidden: int, channels: int, memory: int) -> None:
        super().__init__()
        self.state = nn.Linear(hidden, hidden)
        self.memory = nn.Linear(memory, hidden, bias=False)
        self.channel_CH = nn.Parameter(torch.randn(channels, hidden) * 0.5)
        self.out = nn.Linear(hidden, 1, bias=False)
        self.own = nn.Linear(hidden, channels)  # u and b of the formula above

    def forward(self, h: Tensor, memory: Tensor) -> Tensor:
        """Decode states h (..., H) and channel memories (..., C, M) to one value for each channel (..., C)."""
        hidden = F.relu(self.state(h).unsqueeze(-2) + self.memory(memory) + self.channel_CH)
        values: Tensor = self.out(hidden).squeeze(-1) + self.own(h)
        return values

    def of_channel(self, h_NH: Tensor, memory_NM: Tensor, channel_N: Tensor) -> Tensor:
        """Decode only the channel `channel_N` of each row.

        The losses need only this channel, because the log has an outcome only for the channel that was shown.
        """
        hidden_NH = F.relu(self.state(h_NH) + self.memory(memory_NM) + self.channel_CH[channel_N])
        own_N = self.own(h_NH).gather(1, channel_N.unsqueeze(1)).squeeze(1)
        values_N: Tensor = self.out(hidden_NH).squeeze(-1) + own_N
        return values_N

    def start_at(self, value: float) -> None:
        """Initialise the decoder so that its first outputs, before a sigmoid or softplus, are near `value`."""
        nn.init.zeros_(self.own.weight)
        nn.init.constant_(self.own.bias, value)


def step_of(h_BTH: Tensor, step_B: Tensor) -> Tensor:
    """Return one step of each window, (B, H)."""
    return h_BTH.gather(1, step_B.view(-1, 1, 1).expand(-1, 1, h_BTH.shape[2])).squeeze(1)


class MTORL(nn.Module):
    """The whole network: a trunk of convolutions and attention, a channel memory, and three decoders.

    The trunk computes the user's state h_t = attention(convolutions(embedding(x_t))). The decoders read this state and
    the channel memory m_t:
        action  log pi(c | h_t, m_t), up to a constant
        reward  E[r_t | h_t, m_t, c], through a sigmoid: in [0, 1] like its label MinMaxNorm(g - s w)
        cost    E[w_t | h_t, m_t, c], through a softplus, times cost_scale: in currency units
    """

    cost_scale: Tensor

    def __init__(self, config: MTORLConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Sequential(
            nn.Linear(config.inputs - config.stored, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.hidden),
        )
        self.stored = None
        if config.stored:
            self.stored = nn.Sequential(
                nn.Linear(config.stored, config.hidden), nn.GELU(), nn.Linear(config.hidden, config.hidden)
            )
        levels = range(config.levels if config.convolutions else 0)
        self.convolutions = nn.Sequential(
            *(CausalConv(config.hidden, KERNEL, 2**level, config.dropout) for level in levels)
        )
        self.attention = (
            CausalAttention(config.hidden, config.heads, config.dropout) if config.attention else nn.Identity()
        )
        self.memory = ChannelMemory(config.channels, config.window, config.outcomes, RATES)
        self.action = Decoder(config.hidden, config.channels, self.memory.width)
        self.reward = Decoder(config.hidden, config.channels, self.memory.width)
        self.cost = Decoder(config.hidden, config.channels, self.memory.width)
        self.register_buffer("cost_scale", torch.tensor(config.cost_scale))

    def forward_logged(self, x_BTD: Tensor, channel_BT: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the predictions that the losses compare with the log.

        These are the action logits, and the reward logit and expected cost of the logged channel. The N rows are the
        steps of all windows that have a target, one window after the other. A step has a target if its channel is at
        least 0.
        """
        real_BT = channel_BT >= 0
        channel_N = channel_BT[real_BT]
        h_NH, memory_NCM = self.trunk(x_BTD)[real_BT], self.memory(x_BTD)[real_BT]
        memory_NM = memory_NCM[torch.arange(len(channel_N), device=channel_N.device), channel_N]
        reward_logit_N = self.reward.of_channel(h_NH, memory_NM, channel_N)
        cost_N = F.softplus(self.cost.of_channel(h_NH, memory_NM, channel_N)) * self.cost_scale
        return self.action(h_NH, memory_NCM), reward_logit_N, cost_N

    def forward(self, x_BTD: Tensor, length_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Predict at the last real step of each window: action logits, expected reward in [0, 1] and expected cost."""
        return self.decode(self.last_state(x_BTD, length_B), self.memory.at(x_BTD, length_B - 1))

    def last_state(self, x_BTD: Tensor, length_B: Tensor) -> Tensor:
        """Return the user's state (B, H) at the last real step of each window. The decoders read this state."""
        last_B = length_B - 1
        h_BTH = self.convolutions(self._embed(x_BTD))
        if isinstance(self.attention, CausalAttention):
            h_BH = self.attention.at(h_BTH, last_B)
        else:
            h_BH = step_of(h_BTH, last_B)
        return self._with_stored(h_BH, step_of(x_BTD, last_B))

    def after(self, x_BTD: Tensor, length_BP: Tensor, next_BPD: Tensor) -> tuple[Tensor, Tensor]:
        """Return the state (B, P, H) and memory (B, P, C, M) at each of P alternative next tokens of a window.

        Each alternative comes after the first `length_BP` tokens of its window. This is faster than a window for each
        alternative, because the alternatives share the computation of the earlier tokens.
        """
        h_BTH, next_BPH = self._embed(x_BTD), self._embed(next_BPD)
        for layer in cast("list[CausalConv]", list(self.convolutions)):
            next_BPH = layer.after(h_BTH, length_BP, next_BPH)
            h_BTH = layer(h_BTH)
        if isinstance(self.attention, CausalAttention):
            next_BPH = self.attention.after(h_BTH, length_BP, next_BPH)
        return self._with_stored(next_BPH, next_BPD), self.memory.after(x_BTD, length_BP, next_BPD)

    def decode(self, h_BH: Tensor, memory_BCM: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the outputs of `forward`, given the state and the channel memory at the last step."""
        logits_BC, reward_logit_BC, cost_BC = self._decode(h_BH, memory_BCM)
        return logits_BC, torch.sigmoid(reward_logit_BC), cost_BC

    def trunk(self, x_BTD: Tensor) -> Tensor:
        """Return the state at each step, h_BTH."""
        return self._with_stored(self.attention(self.convolutions(self._embed(x_BTD))), x_BTD)

    def _embed(self, x_BTD: Tensor) -> Tensor:
        embedded_BTH: Tensor = self.embedding(x_BTD[..., : x_BTD.shape[-1] - self.config.stored])
        return embedded_BTH

    def _with_stored(self, h: Tensor, x: Tensor) -> Tensor:
        """Encode the stored features of the tokens x (..., D), and add them to the states h (..., H)."""
        return h if self.stored is None else h + self.stored(x[..., -self.config.stored :])

    def compile_trunk(self) -> None:
        """Compile the trunk, which does most of the computation, so that it runs faster on a GPU."""
        self.trunk = torch.compile(self.trunk)  # type: ignore[method-assign]

    def _decode(self, h: Tensor, memory: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        cost = F.softplus(self.cost(h, memory)) * self.cost_scale
        return self.action(h, memory), self.reward(h, memory), cost
