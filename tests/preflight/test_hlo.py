"""The cost model: on HLO written here by hand, and on what the TPU's compiler makes of programs computed on paper."""

import pytest
import tensorflow as tf

from tfhf.preflight import all_reduce_sum, compile_for_tpu
from tfhf.preflight.buffers import buffers
from tfhf.preflight.hlo import costs
from tfhf.preflight.hlo_text import HloError, parse

# A loop of 6 rounds that multiplies, reads a slice of one array and updates a slice of another, and a bound that is
# handed through the loop around it, which runs 4 times; beside them a sum over 8 cores, and a value on the chip, S(1).
LOOPS = """HloModule by_hand, is_scheduled=true, replica_count=8

%fused (p.0: f32[6,256,128], p.1: s32[], p.2: bf16[128,128], p.3: f32[6,256,128]) -> f32[6,256,128] {
  %p.0 = @A parameter(0)
  %p.1 = s32[]{:T(256)} parameter(1)
  %p.2 = @W parameter(2)
  %p.3 = @A parameter(3)
  %zero = s32[]{:T(256)} constant(0)
  %slice = f32[1,256,128]{2,1,0:T(8,128)} dynamic-slice(%p.0, %p.1, %zero, %zero), dynamic_slice_sizes={1,256,128}
  %row = f32[256,128]{1,0:T(8,128)} bitcast(%slice)
  %product = f32[256,128]{1,0:T(8,128)} convolution(%row, %p.2), dim_labels=bf_io->bf, metadata={op_name="net/MatMul"}
  %tanh = f32[256,128]{1,0:T(8,128)} tanh(%product)
  %update = f32[1,256,128]{2,1,0:T(8,128)} bitcast(%tanh)
  ROOT %written = @A dynamic-update-slice(%p.3, %update, %p.1, %zero, %zero)
}

%inner_body (i: (s32[], f32[6,256,128])) -> (s32[], f32[6,256,128]) {
  %i = @STATE parameter(0)
  %counter = s32[] get-tuple-element(%i), index=0
  %in = @A get-tuple-element(%i), index=1
  %w = @W get-tuple-element(%i), index=2
  %out = @A get-tuple-element(%i), index=3
  %limit = s32[] get-tuple-element(%i), index=4
  %one = s32[] constant(1)
  %next = s32[]{:T(256)S(6)} add(%counter, %one)
  %fusion = @A fusion(%in, %counter, %w, %out), kind=kOutput, calls=%fused, @SCAN
  ROOT %tuple = @STATE tuple(%next, %in, %w, %fusion, %limit)
}

%inner_test (t: (s32[], f32[6,256,128])) -> pred[] {
  %t = @STATE parameter(0)
  %at = s32[] get-tuple-element(%t), index=0
  %to = s32[] get-tuple-element(%t), index=4
  ROOT %less = pred[]{:S(6)} compare(%at, %to), direction=LT
}

%outer_body (o: (s32[], f32[6,256,128])) -> (s32[], f32[6,256,128]) {
  %o = @STATE parameter(0)
  %round = s32[] get-tuple-element(%o), index=0
  %a = @A get-tuple-element(%o), index=1
  %b = @W get-tuple-element(%o), index=2
  %c = @A get-tuple-element(%o), index=3
  %rounds = s32[] get-tuple-element(%o), index=4
  %start = s32[] constant(0)
  %begin = s32[]{:S(6)} copy(%start)
  %state = @STATE tuple(%begin, %a, %b, %c, %rounds)
  %while.in = @STATE while(%state), condition=%inner_test, body=%inner_body, metadata={op_name="net/inner"}
  %made = @A get-tuple-element(%while.in), index=3
  %minus = s32[] constant(-2)
  %down = s32[]{:S(6)} add(%round, %minus)
  ROOT %state.out = @STATE tuple(%down, %a, %b, %made, %rounds)
}

%outer_test (u: (s32[], f32[6,256,128])) -> pred[] {
  %u = @STATE parameter(0)
  %now = s32[] get-tuple-element(%u), index=0
  %end = s32[] constant(1)
  ROOT %still = pred[]{:S(6)} compare(%now, %end), direction=GE
}

%sum (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %plus = f32[] add(%x, %y)
}

ENTRY %main (arg.0: f32[6,256,128], arg.1: bf16[128,128]) -> (f32[6,256,128], f32[10,130]) {
  %arg.0 = @A parameter(0)
  %arg.1 = @W parameter(1)
  %room = @A custom-call(), custom_call_target="AllocateBuffer"
  %six = s32[] constant(6)
  %seven = s32[] constant(7)
  %all = @STATE tuple(%seven, %arg.0, %arg.1, %room, %six)
  %while.out = @STATE while(%all), condition=%outer_test, body=%outer_body, metadata={op_name="call.7/net/outer"}
  %result = @A get-tuple-element(%while.out), index=3
  %small = f32[10,130]{1,0:T(8,128)S(1)} constant({...})
  %reduced = f32[10,130]{1,0:T(8,128)} all-reduce(%small), replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%sum, @SUM
  ROOT %both = (@A, f32[10,130]{1,0:T(8,128)}) tuple(%result, %reduced)
}
"""
for _short, _long in (
        ("@STATE", "(s32[], @A, @W, @A, /*index=4*/s32[])"),
        ("@A", "f32[6,256,128]{2,1,0:T(8,128)}"),
        ("@W", "bf16[128,128]{1,0:T(8,128)(2,1)}"),
        ("@SUM", 'metadata={op_name="gradients/all_reduce"}'),
        ("@SCAN", 'metadata={op_name="net/scan"}, backend_config={"window_config":{"estimated_cycles":"100"}}')):
    LOOPS = LOOPS.replace(_short, _long)
PLANE = 256 * 128


def test_loops_slices_and_what_is_on_the_chip():
    found = costs(LOOPS)
    assert found.loops == (("net/outer", 4), ("net/inner", 6))  # 7, 5, 3, 1; and a bound of 6 handed through
    assert not found.unknown_loops
    assert found.flops == 24 * 2 * PLANE * 128
    assert found.transcendentals == 24 * PLANE
    assert found.cycles == 24 * 100
    padded = 16 * 256 * 4  # 10 x 130 in tiles of 8 x 128
    # A round reads one slice and the weights and writes one slice; the reduced value is on the chip before.
    names = dict(found.bytes_by_name)
    assert names["net/scan"] == 24 * (4 * PLANE + 2 * 128 * 128 + 4 * PLANE + 4)
    assert names["gradients/all_reduce"] == padded
    assert found.all_reduce_bytes == padded
    assert found.flops_by_name == (("net/MatMul", found.flops),)
    assert found.padded_share == 0


def test_loops_that_cannot_be_told_are_named():
    data = LOOPS.replace("%end = s32[] constant(1)", "%end = s32[] get-tuple-element(%u), index=0")
    assert costs(data).unknown_loops == ("net/outer",)
    assert costs(data).flops == 6 * 2 * PLANE * 128
    early = LOOPS.replace("ROOT %still = pred[]{:S(6)} compare(%now, %end), direction=GE",
                          "%still = pred[]{:S(6)} compare(%now, %end), direction=GE\n"
                          "  %done = pred[]{:S(6)} custom-call(%now), custom_call_target=\"data\"\n"
                          "  ROOT %and = pred[]{:S(6)} and(%done, %still)")
    assert costs(early).unknown_loops == ("net/outer at most 4",)
    assert costs(early).flops == 24 * 2 * PLANE * 128


@pytest.mark.parametrize("change, count", [
    (("%seven = s32[] constant(7)", "%seven = s32[] constant(0)"), 0),
    (('net/outer"}', 'net/outer"}, backend_config={"known_trip_count":{"n":"9"}}'), 9),
    (("%minus = s32[] constant(-2)", "%minus = s32[] constant(-3)"), 3),
    (("compare(%now, %end), direction=GE", "compare(%end, %now), direction=LT"), 3),
])
def test_trips(change, count):
    assert dict(costs(LOOPS.replace(*change)).loops)["net/outer"] == count


def test_padding_of_what_is_multiplied():
    text = LOOPS.replace("bf16[128,128]{1,0:T(8,128)(2,1)}", "bf16[128,100]{1,0:T(8,128)(2,1)}")
    padding = 128 * 28 * 2
    assert costs(text).padded_share == pytest.approx(padding / (PLANE * 4 + 128 * 128 * 2))
    assert dict(costs(text).padding_by_name) == {"net/MatMul": 24 * padding}


def test_of_branches_the_costlier_one_counts():
    text = """HloModule branches
%cheap (a: f32[8,128]) -> f32[8,128] {
  %a = f32[8,128]{1,0:T(8,128)} parameter(0)
  ROOT %negate = f32[8,128]{1,0:T(8,128)} negate(%a)
}
%dear (b: f32[8,128]) -> f32[8,128] {
  %b = f32[8,128]{1,0:T(8,128)} parameter(0)
  %dot = f32[8,8]{1,0:T(8,128)} dot(%b, %b), lhs_contracting_dims={1}, rhs_contracting_dims={1}
  %dot.1 = f32[8,128]{1,0:T(8,128)} dot(%dot, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %exp = f32[8,128]{1,0:T(8,128)} exponential(%dot.1)
}
ENTRY %main (p: s32[], x: f32[8,128]) -> f32[8,128] {
  %p = s32[] parameter(0)
  %x = f32[8,128]{1,0:T(8,128)} parameter(1)
  ROOT %c = f32[8,128]{1,0:T(8,128)} conditional(%p, %x, %x), branch_computations={%cheap, %dear}
}
"""
    found = costs(text)
    assert (found.flops, found.transcendentals, found.elementwise) == (2 * (2 * 8 * 8 * 128), 1024, 0)
    assert found.bytes == 4 * 1024 * (2 + 1 + 1 + 1 + 1 + 1 + 1)


def test_what_fills_the_memory():
    largest = buffers(LOOPS)
    assert [(buffer.bytes, buffer.what) for buffer in largest[:2]] == [
        (6 * 4 * PLANE, "argument f32[6,256,128]"), (6 * 4 * PLANE, "temporary f32[6,256,128]")]
    # The loops update the room in place: nothing else of its size.
    assert sum(buffer.bytes for buffer in largest) < 2 * 6 * 4 * PLANE + 128 * 1024


def test_text_that_is_no_hlo():
    with pytest.raises(HloError, match="line 1 .*no ENTRY|no ENTRY"):
        parse("nothing")
    with pytest.raises(HloError, match=r"line 2 .*'what is this', expected an instruction"):
        parse("ENTRY %main (x: f32[]) -> f32[] {\n  what is this\n}\n")


def test_what_tensorflow_lowers_is_counted_as_well():
    """Before any compiler saw it: calls within calls, conditions of two parts."""
    scan = tf.function(lambda x, w: tf.scan(lambda state, _: tf.matmul(state, w), tf.range(50), x), jit_compile=True)
    text = scan.experimental_get_compiler_ir(*[tf.TensorSpec((64, 64))] * 2)(stage="hlo", platform_name="CPU")
    found = costs(text)
    assert found.flops == 50 * 2 * 64**3 and not found.unknown_loops


def test_what_nothing_asks_for_is_not_counted():
    """A tape goes back through frozen layers too, and TensorFlow lowers that; the compiler drops it."""
    def gradient(x, frozen, w):
        with tf.GradientTape() as tape:
            tape.watch([frozen, w])   # a frozen tf.Variable is watched, as every variable
            loss = tf.reduce_sum(tf.matmul(tf.matmul(x, frozen), w) ** 2)
        return tape.gradient(loss, w)

    function = tf.function(gradient, jit_compile=True)
    text = function.experimental_get_compiler_ir(*[tf.TensorSpec((64, 64))] * 3)(stage="hlo", platform_name="CPU")
    assert text.count(" dot(") == 5   # forward 2; for w 1; 2 more that only `frozen` and x would ask for
    assert costs(text).flops == 3 * 2 * 64**3


# ------------------------------------------------------------------------- what the compiler makes of known programs


@pytest.fixture
def compiled(tmp_path, monkeypatch):
    pytest.importorskip("libtpu", reason="the TPU compiler is in the extra preflight")
    monkeypatch.setenv("TFHF_CACHE", str(tmp_path))

    def compile_it(function, *shapes, **options):
        return compile_for_tpu(tf.function(function, jit_compile=True), [tf.TensorSpec(shape) for shape in shapes],
                               **options)

    return compile_it


@pytest.mark.parametrize("topology", ["v3:2x2", "v5e:2x4", "v6e:2x4"])
def test_a_chain_of_products(compiled, topology):
    def chain(x, a, b):
        return tf.matmul(tf.matmul(x, a), b)

    found = compiled(chain, (1024, 2048), (2048, 4096), (4096, 1024), topology=topology)
    assert found.costs.flops == 2 * 1024 * 2048 * 4096 + 2 * 1024 * 4096 * 1024
    assert (found.argument_bytes, found.output_bytes) == (4 * (2**21 + 2**23 + 2**22), 4 * 2**20)
    # Read and written once. On a v3 the product between goes to HBM and back as bfloat16, on the others it stays.
    between = 2 * 2 * 2**22 if topology == "v3:2x2" else 0
    assert found.costs.bytes == 4 * (2**21 + 2**23 + 2**22 + 2**20) + between


def test_a_scan_of_50(compiled):
    def scan(x, w):
        return tf.scan(lambda state, _: tf.tanh(tf.matmul(state, w)), tf.range(50), x)[-1]

    found = compiled(scan, (512, 512), (512, 512))
    assert dict(found.costs.loops).popitem()[1] == 50
    assert found.costs.flops == 50 * 2 * 512**3  # 13.4 GFLOP
    assert found.costs.transcendentals == 50 * 512**2


def test_nested_loops(compiled):
    def nested(x, w):
        def inner(_, y):
            return tf.while_loop(lambda j, _: j < 7, lambda j, y: (j + 1, tf.tanh(tf.matmul(y, w))), [0, y])[1]

        return tf.while_loop(lambda i, _: i < 32, lambda i, y: (i + 1, 0.5 * inner(i, y)), [0, x])[1]

    found = compiled(nested, (256, 256), (256, 256))
    assert sorted(trips for _, trips in found.costs.loops) == [7, 32]
    assert found.costs.flops == 32 * 7 * 2 * 256**3


@pytest.mark.parametrize("topology", ["v3:2x2", "v5e:2x4"])
def test_a_convolution_and_its_gradients(compiled, topology):
    def step(x, w):
        with tf.GradientTape() as tape:
            tape.watch([x, w])
            y = tf.nn.conv2d(x, w, 2, "SAME")
            loss = tf.reduce_sum(tf.square(y))
        return tape.gradient(loss, [x, w])

    found = compiled(step, (8, 64, 64, 64), (3, 3, 64, 128), topology=topology)
    # 64 -> 32 with one row of padding at the end: of 32 x 3 positions one lies in it, in either direction.
    once = 2 * 8 * (32 * 3 - 1) ** 2 * 64 * 128
    assert found.costs.flops == 3 * once
    # 64 channels in tiles of 128: half of each input is padding.
    assert 0.2 < found.costs.padded_share < 0.6


@pytest.mark.parametrize("topology", ["v2:2x2", "v3:2x2", "v5e:2x4", "v6e:2x4"])
def test_an_all_reduce_over_8_cores(compiled, topology):
    def step(x, w):
        with tf.GradientTape() as tape:
            tape.watch(w)
            loss = tf.reduce_sum(tf.square(tf.matmul(x, w)))
        return w - 0.1 * all_reduce_sum(tape.gradient(loss, w), 8)

    found = compiled(step, (256, 1024), (1024, 512), topology=topology, replicas=8)
    assert found.replicas == 8
    assert found.costs.all_reduce_bytes == 4 * 1024 * 512
    assert found.costs.flops == 2 * (2 * 256 * 1024 * 512)


def test_the_buffers_add_up_to_the_compilers_sum(compiled):
    def attention(x, w):
        states = tf.reshape(tf.matmul(x, w), (4, 512, 8, 64))
        with tf.name_scope("scores"):
            scores = tf.nn.softmax(tf.einsum("bqhd,bkhd->bhqk", states, states))
        return tf.einsum("bhqk,bkhd->bqhd", scores, states)

    found = compiled(attention, (4, 512, 512), (512, 512))
    total = sum(buffer.bytes for buffer in found.buffers)
    assert total == pytest.approx(found.total_bytes, rel=0.1)
    largest = found.buffers[0]
    assert largest.op_name.startswith("scores/") and largest.what == "temporary f32[4,8,512,512]"
