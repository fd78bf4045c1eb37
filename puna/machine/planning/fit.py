"""Does a model fit? Itemised bytes, the verdict, and the nearest settings that fit, computed from headers alone.

fitting = fit(checkpoint, EngineConfig(), device)
fitting.fits, fitting.needed_bytes, [item.bytes for item in fitting.items]
nearest(checkpoint, EngineConfig(), device)         # three settings that fit, best quality first
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from math import log2, prod
from typing import NamedTuple

from puna.backends import backend_spec
from puna.config import EngineConfig
from puna.errors import InsufficientMemoryError, UsageError
from puna.formats.base import Checkpoint
from puna.formats.shards import part_of
from puna.machine.planning.devices import PlannedDevice
from puna.machine.planning.known_models import checkpoint_of
from puna.machine.planning.speed import FLOATS, Speed, expected
from puna.model.spec import ModelConfig
from puna.model.weights import role_of
from puna.plan import (
    DEVICE,
    LEAST_CONTEXT,
    USUAL_CONTEXT,
    Layout,
    Plan,
    TensorHeader,
    kv_bytes,
    make_plan,
    offloaded_bytes,
    placements_of,
)
from puna.progress import KeepingReporter, Reporter
from puna.units import gib, kib

NO_LIMIT = 1 << 60
NEAREST = 3  # number of settings to show
WIDENED = 1.1  # times the bytes in the file
PARTS = (1, 2, 4, 8)  # devices that share a model
MOST_HALVINGS = 10  # of a context

# Main memory of a process without the model: Python, libraries, tokenizer. Measured on the CPU: 45 to 55 MiB.
PROCESS_BYTES = {"cpu": 50 << 20, "reference": 50 << 20, "torch": 350 << 20, "cuda": 1200 << 20}


class Item(NamedTuple):
    """A line of the plan."""

    part: str  # "weights", "KV", "scratch", "overhead"
    name: str
    detail: str
    bytes: int


class SettingLoss(NamedTuple):
    """The cost of a setting: `weight` orders settings, `words` describe it."""

    weight: float
    words: str


@dataclass(frozen=True, slots=True)
class Fit:
    """A model with settings on a device."""

    device: PlannedDevice
    plan: Plan  # if it does not fit: what it would need
    items: tuple[Item, ...]  # on one device
    main_items: tuple[Item, ...]  # in main memory, where the device is a GPU
    notices: tuple[str, ...]
    problem: str  # "": it fits
    speed: Speed | None
    parts: int = 1  # devices that share the model

    @property
    def fits(self) -> bool:
        return not self.problem

    @property
    def needed_bytes(self) -> int:
        """Bytes of `device.free_bytes` that the model needs."""
        return self.plan.total_bytes

    @property
    def device_bytes(self) -> int:
        """All memory used on the device, including that of CUDA and Python."""
        return sum(item.bytes for item in self.items)

    @property
    def alone_bytes(self) -> int:
        """The same with K/V space for one sequence only."""
        pages = -(-self.plan.max_context // self.plan.page_size)
        return self.device_bytes - self.plan.kv_bytes + self.plan.kv_bytes * pages // self.plan.num_pages


@dataclass(frozen=True, slots=True)
class Setting:
    """Flags with which a model fits."""

    flags: tuple[str, ...]  # as they are typed: "--weights int8", or a command that names the model MODEL
    fit: Fit
    loss: str  # what it costs, as text; "": nothing


def fit(checkpoint: Checkpoint, engine: EngineConfig, device: PlannedDevice, parts: int = 1) -> Fit:
    """What `puna run` would allocate with these settings, as one of `parts` processes with a device each.

    UsageError for invalid settings, and for a number of parts that the model cannot be split into.
    """
    own = part_of(checkpoint, parts - 1, parts)
    free_bytes = device.free_bytes if device.is_gpu else device.free_bytes // parts  # processes share main memory, not a card
    heard = KeepingReporter()
    problem, layouts = "", backend_spec(device.kind).layouts
    try:
        plan = make_plan(own.config, own.tensors, engine, layouts, free_bytes, heard, own.adapters)
    except InsufficientMemoryError as error:
        plan = _as_asked(own, engine, layouts)
        problem = _shortage(plan, error.needed_bytes if len(layouts) > 1 else 0, min(free_bytes, engine.vram or free_bytes))
    main_items = tuple(_main_items(offloaded_bytes(plan), device))
    in_main = parts * sum(item.bytes for item in main_items)
    if not problem and in_main > device.main_bytes:
        times = f"{parts} x " if parts > 1 else ""
        problem = (
            f"{_concessions(own.config, plan)}it needs {times}{gib(in_main // parts)} of main memory too, "
            f"and {gib(device.main_bytes)} of it are free"
        )
    if problem:
        heard.texts.clear()  # they tell what the plan does when it runs
    _tell_widened(own, plan, heard)
    speed = (
        None
        if device.roofline is None or (parts > 1 and not device.is_gpu)
        else expected(own.config, own.tensors, plan, device.roofline, device.kind)
    )
    items = tuple(_items(own, plan, device))
    return Fit(device, plan, items, main_items, tuple(heard.texts), problem, speed, parts)


def _shortage(plan: Plan, least_bytes: int, free_bytes: int) -> str:
    """`least_bytes`: with the fewest bits, and with layers in main memory; 0: the device has one way only."""
    if least_bytes:
        needs = f"it needs {gib(plan.total_bytes)}; even at its smallest it needs {gib(least_bytes)}"
    else:
        needs = f"the model needs {gib(plan.total_bytes)}, {gib(plan.weights_bytes)} of it for weights"
    return f"{needs}, and {gib(free_bytes)} are free"


def _concessions(config: ModelConfig, plan: Plan) -> str:
    """What the plan already does to fit, as the beginning of a sentence; "" if nothing."""
    bits = "" if plan.weights == "as-is" else f"weights as {plan.weights}"
    layers = f"{plan.num_offloaded} of {config.num_layers} layers in main memory" if plan.num_offloaded else ""
    done = " and ".join(filter(None, (bits, layers)))
    return f"even with {done}, " if done else ""


def _tell_widened(own: Checkpoint, plan: Plan, report: Reporter) -> None:
    """Name the file's types that take more memory than disk, because the device has no kernels for them."""
    widened: dict[str, str] = {}
    for name, kind, size, _ in plan.placements:
        tensor = own.tensors.get(name)
        if tensor is not None and len(tensor.shape) > 1 and size > WIDENED * tensor.num_bytes:
            widened[tensor.type.name] = kind
    if widened:
        types = ", ".join(f"{was} as {kind}" for was, kind in widened.items())
        file_bytes = sum(tensor.num_bytes for tensor in own.tensors.values())
        kept = [kind for kind, held in plan.layout.resident_types.items() if held == kind and kind not in FLOATS]
        report.notice(
            f"this device keeps {types}: {gib(plan.weights_bytes)} of weights, {gib(file_bytes)} in the file"
            + (f"; {', '.join(kept)} stay as they are" if kept else "")
        )


def _as_asked(own: Checkpoint, engine: EngineConfig, layouts: Mapping[str, Layout]) -> Plan:
    """The plan for an unlimited device and one sequence, of the requested context or a usual one."""
    context = engine.max_context or min(own.config.max_context, USUAL_CONTEXT)
    one = replace(engine, max_context=context, max_batch=1, vram=0)
    return make_plan(own.config, own.tensors, one, layouts, NO_LIMIT, adapters=own.adapters)


# ---- bytes --------------------------------------------------------------------------------------------------------------


def _items(own: Checkpoint, plan: Plan, device: PlannedDevice) -> Iterator[Item]:
    config = own.config
    yield from _weight_items(own.tensors, config, plan)
    if own.adapters:
        yield Item("weights", "LoRA adapters", f"F32, {len(own.adapters)} of them", plan.adapters_bytes)
    per_token = kv_bytes(config, 1, plan.kv_type, plan.layout.value_multiple)
    yield Item("KV", f"{plan.num_pages * plan.page_size} tokens", f"{plan.kv_type}, {kib(per_token)} a token", plan.kv_bytes)
    yield Item("scratch", "activations", f"{plan.max_tokens} tokens in a step", plan.scratch_bytes)
    yield Item("scratch", "logits", f"{config.vocab_size} numbers of each", plan.logits_bytes)
    for name, size in device.taken:
        yield Item("overhead", name, "", size)
    if not device.is_gpu:
        yield Item("overhead", "Python and libraries", "each process", PROCESS_BYTES[device.kind])


def _weight_items(tensors: Mapping[str, TensorHeader], config: ModelConfig, plan: Plan) -> Iterator[Item]:
    sizes: Counter[tuple[str, str]] = Counter()
    for name, kind, size, where in plan.placements:
        if name in tensors and where == DEVICE:
            was = tensors[name].type.name
            sizes[role_of(name).class_, kind if kind == was else f"{was} -> {kind}"] += size
    for (class_, types), size in sorted(sizes.items(), key=lambda row: -row[1]):
        yield Item("weights", class_, types, size)
    if plan.num_offloaded:
        buffers = plan.weights_bytes - sum(sizes.values())
        yield Item("weights", "offload buffers", f"{plan.num_offloaded} of {config.num_layers} layers", buffers)


def _main_items(offloaded: int, device: PlannedDevice) -> Iterator[Item]:
    if not device.is_gpu:
        return
    if offloaded:
        yield Item("weights", "offloaded layers", "", offloaded)
    yield Item("overhead", "Python, PyTorch, CUDA", "", PROCESS_BYTES["cuda"])


# ---- settings that fit --------------------------------------------------------------------------------------------------

# Perplexity on wiki.test.raw against float16's 7.7861, published for open_llama_3b: 7.7874, 8.0483, 8.0962.
TYPE_LOSS: Mapping[str, SettingLoss] = {
    "Q8_0": SettingLoss(1.0, "perplexity +0.02 %"),
    "Q4_1": SettingLoss(4.0, "perplexity +3 %"),
    "Q4_0": SettingLoss(4.5, "perplexity +4 %"),
}
WEIGHTS_TYPE = {"int8": "Q8_0", "int4": "Q4_1"}
NO_LOSS = SettingLoss(0.0, "")
KV_LOSS = SettingLoss(1.2, "K and V in 8 bits: KL 0.003")
HALVING_LOSS = 1.5  # for each halving of the context
OFFLOAD_LOSS = SettingLoss(2.5, "slow: layers come over PCIe")
OFFLOADED_LOSS = 8.0  # if all layers are offloaded: slow with any weights
DEVICE_LOSS = 3.0  # for each doubling of the devices
MODEL = "MODEL"  # in a command of a setting: the model that is planned
# Bits per weight that `puna convert --quantize` makes, for a device that keeps the file's weights.
SPARE_SETTINGS = 3  # more candidates than are shown, because some cost more than their flags suggest
GOOD_CONTEXT = 4096  # tokens that a conversation wants
REQUANTISED = {"Q8_0": 8.5, "Q4_1": 5.0, "Q4_0": 4.5}


class _Choice(NamedTuple):
    """One choice for one setting; flags are empty if it stays as requested."""

    flags: tuple[str, ...]
    loss: SettingLoss
    settings: Mapping[str, object] = {}
    parts: int = 1
    requantised: str = ""


AS_ASKED = _Choice((), NO_LOSS)


def nearest(
    checkpoint: Checkpoint, engine: EngineConfig, device: PlannedDevice, parts: int = 1, count: int = NEAREST
) -> list[Setting]:
    """Settings that fit, best quality first, without those that only add changes to another one."""
    ways = sorted(
        product(*_questions(checkpoint, engine, device, parts)), key=lambda way: sum(choice.loss.weight for choice in way)
    )
    found: list[tuple[frozenset[str], float, Setting]] = []
    for way in ways:
        flags = tuple(sorted((flag for choice in way for flag in choice.flags), key=_is_option))
        if not flags or any(earlier <= frozenset(flags) for earlier, _, _ in found):
            continue
        if (setting := _setting(checkpoint, engine, device, way, flags)) is not None:
            loss = sum(choice.loss.weight for choice in way) + _further_loss(setting.fit.plan, checkpoint.config, engine)
            found.append((frozenset(flags), loss, setting))
        if len(found) == count + SPARE_SETTINGS:
            break
    return [setting for _, _, setting in sorted(found, key=lambda row: row[1])[:count]]


def _further_loss(plan: Plan, config: ModelConfig, engine: EngineConfig) -> float:
    """Costs known only after planning: the number of offloaded layers, and a lowered context."""
    wanted = engine.max_context or min(config.max_context, GOOD_CONTEXT)
    halvings = max(0.0, log2(wanted / plan.max_context)) if not engine.max_context else 0.0
    return OFFLOADED_LOSS * plan.num_offloaded / config.num_layers + HALVING_LOSS * halvings


def _is_option(flag: str) -> bool:
    """Put options after the command that has them."""
    return flag.startswith("--")


def _questions(checkpoint: Checkpoint, engine: EngineConfig, device: PlannedDevice, parts: int) -> Iterator[list[_Choice]]:
    """Each setting with its choices."""
    layouts = backend_spec(device.kind).layouts
    yield [
        AS_ASKED,
        *_weights_choices(checkpoint, engine, layouts),
        *(_file_choices(checkpoint, layouts) if len(layouts) == 1 else ()),
    ]
    kinds = next(iter(layouts.values())).kv_types
    is_free = engine.kv_type in ("auto", "f32", "f16", "bf16")
    yield [AS_ASKED, *([_Choice(("--kv-type int8",), KV_LOSS, {"kv_type": "int8"})] if is_free and "int8" in kinds else [])]
    yield [AS_ASKED, *_context_choices(checkpoint.config, engine)]
    yield [AS_ASKED._replace(parts=parts), *_parts_choices(checkpoint, device, parts)]


def _saves(checkpoint: Checkpoint, layouts: Mapping[str, Layout], name: str) -> bool:
    """Whether a layout needs fewer bytes than the file's own types."""
    own, other = (_bytes_in(checkpoint, layout) for layout in (next(iter(layouts.values())), layouts[name]))
    return other < 0.97 * own


def _bytes_in(checkpoint: Checkpoint, layout: Layout) -> int:
    return sum(one.bytes for one in placements_of(checkpoint.tensors, layout))


def _weights_choices(checkpoint: Checkpoint, engine: EngineConfig, layouts: Mapping[str, Layout]) -> Iterator[_Choice]:
    for name, layout in layouts.items():
        if len(layouts) > 1 and name != engine.weights:
            if name in WEIGHTS_TYPE and not _saves(checkpoint, layouts, name):
                continue
            loss = TYPE_LOSS[WEIGHTS_TYPE[name]] if name in WEIGHTS_TYPE else OFFLOAD_LOSS if layout.offloads else NO_LOSS
            yield _Choice((f"--weights {name}",), loss, {"weights": name})


def _file_choices(checkpoint: Checkpoint, layouts: Mapping[str, Layout]) -> Iterator[_Choice]:
    """Choices of types with fewer bits than the weights have in memory."""
    layout = next(iter(layouts.values()))
    has = 8 * _bytes_in(checkpoint, layout) / sum(prod(tensor.shape) for tensor in checkpoint.tensors.values())
    for kind, bits in REQUANTISED.items():
        if bits < 0.97 * has:
            yield _Choice(
                (f"puna convert {MODEL} smaller.gguf --to gguf --quantize {kind.lower()}",), TYPE_LOSS[kind], requantised=kind
            )


def _context_choices(config: ModelConfig, engine: EngineConfig) -> Iterator[_Choice]:
    """Halves of a requested context. The plan itself lowers a context that was not requested."""
    asked = engine.max_context
    for halvings in range(1, MOST_HALVINGS):
        context = asked >> halvings
        if context < LEAST_CONTEXT:
            return
        words = f"{context} tokens of context, not {asked}"
        yield _Choice((f"--max-context {context}",), SettingLoss(HALVING_LOSS * halvings, words), {"max_context": context})


def _parts_choices(checkpoint: Checkpoint, device: PlannedDevice, asked: int) -> Iterator[_Choice]:
    """More cards of the same kind; GPUs only."""
    for parts in (parts for parts in PARTS if parts > asked and device.is_gpu):
        try:
            part_of(checkpoint, 0, parts)
        except UsageError:
            continue
        has = parts <= device.count
        words = f"on {parts} cards" if has else f"needs {parts} such cards"
        weight = (0.5 if has else DEVICE_LOSS) * log2(parts)
        yield _Choice((f"torchrun --nproc_per_node {parts} -m puna chat {MODEL}",), SettingLoss(weight, words), parts=parts)


def _setting(
    checkpoint: Checkpoint, engine: EngineConfig, device: PlannedDevice, way: tuple[_Choice, ...], flags: tuple[str, ...]
) -> Setting | None:
    changes = {name: value for choice in way for name, value in choice.settings.items()}
    requantised = next((choice.requantised for choice in way if choice.requantised), "")
    subject = replace(checkpoint_of(checkpoint.config, requantised), adapters=checkpoint.adapters) if requantised else checkpoint
    # "auto" lowers precision by itself; here a setting without --weights means as-is
    asked = replace(engine, weights="as-is") if engine.weights == "auto" else engine
    made = fit(subject, replace(asked, **changes), device, max(choice.parts for choice in way))  # type: ignore[arg-type]
    means_offloading = any(choice.loss is OFFLOAD_LOSS for choice in way)
    if not made.fits or (made.plan.num_offloaded > 0) != means_offloading:
        return None
    words = [choice.loss.words for choice in way if choice.loss.words]
    if made.plan.max_context < min(checkpoint.config.max_context, engine.max_context or checkpoint.config.max_context):
        words = [word for word in words if "of context" not in word] + [f"{made.plan.max_context} tokens of context"]
    return Setting(flags, made, "; ".join(words))


def ways_to_fit(model: ModelConfig, file_type: str, device_bytes: int) -> tuple[str, ...]:
    """At most three settings with which a model whose matrices are `file_type` ("F16") runs on a GPU with `device_bytes` free.

    Each is a line of text, flags first: "--weights int8: 6.67 GiB of weights, perplexity +0.02 %".
    """
    device = PlannedDevice("cuda", "a GPU", device_bytes, device_bytes, NO_LIMIT)
    found = nearest(checkpoint_of(model, file_type), EngineConfig(device="cuda"), device)
    return tuple(f"{' '.join(one.flags)}: {gib(one.fit.plan.weights_bytes)} of weights, {one.loss}" for one in found)
