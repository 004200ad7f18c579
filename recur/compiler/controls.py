"""Denormal numbers counted as zero while a kernel runs: on some processors each of them costs a hundred cycles.

The state belongs to the thread, and torch's own setting does not reach the threads of a pool.
"""

from recur.compiler.ir import Function
from recur.compiler.target import Target

# flush to zero and denormals are zero, in MXCSR and in FPCR
_X86_BITS = 0x8040
_ARM_BITS = 1 << 24


def flush_on(f: Function, target: Target) -> str:
    """Make denormals zero from here on, and return the state before, for `flush_off`. To be written first."""
    if target.architecture == "x86_64":
        memory = f.let("alloca i32")
        _declare_x86(f)
        f.do(f"call void @llvm.x86.sse.stmxcsr(ptr {memory})")
        before = f.load("i32", memory)
        f.store("i32", f.let(f"or i32 {before}, {_X86_BITS}"), memory)
        f.do(f"call void @llvm.x86.sse.ldmxcsr(ptr {memory})")
        f.store("i32", before, memory)
        return memory
    f.module.declare("declare i64 @llvm.aarch64.get.fpcr()")
    f.module.declare("declare void @llvm.aarch64.set.fpcr(i64)")
    before = f.let("call i64 @llvm.aarch64.get.fpcr()")
    f.do(f"call void @llvm.aarch64.set.fpcr(i64 {f.let(f'or i64 {before}, {_ARM_BITS}')})")
    return before


def flush_off(f: Function, target: Target, before: str) -> None:
    """Restore the state that `flush_on` returned."""
    if target.architecture == "x86_64":
        _declare_x86(f)
        f.do(f"call void @llvm.x86.sse.ldmxcsr(ptr {before})")
    else:
        f.do(f"call void @llvm.aarch64.set.fpcr(i64 {before})")


def _declare_x86(f: Function) -> None:
    f.module.declare("declare void @llvm.x86.sse.stmxcsr(ptr)")
    f.module.declare("declare void @llvm.x86.sse.ldmxcsr(ptr)")
