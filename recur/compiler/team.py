"""The compiled half of `threads`: how threads are given work, meet and wait, as LLVM assembly.

The memory of a team is a `%team`, then one `%member` for each thread. What different threads write lies 128 bytes
apart: processors fetch lines of 64 bytes in pairs, and some have lines of 128.
"""

from recur.compiler.target import Target

BYTES_OF_TEAM = 256
BYTES_OF_MEMBER = 256
FUNCTIONS = ["recur_prepare", "recur_dispatch", "recur_worker", "recur_pause"]

# how a processor is told that this is a loop that waits
_PAUSE = {
    "x86_64": ("declare void @llvm.x86.sse2.pause()", "call void @llvm.x86.sse2.pause()"),
    "aarch64": ("declare void @llvm.aarch64.isb(i32)", "call void @llvm.aarch64.isb(i32 15)"),
}
# the number of the futex call
_FUTEX = {"x86_64": 202, "aarch64": 98}

_LINUX = """
declare i64 @syscall(i64, ...)
declare i32 @sched_getcpu()
define internal void @sleep(ptr %flag, i32 %seen) nounwind {
  call i64 (i64, ...) @syscall(i64 FUTEX, ptr %flag, i64 128, i32 %seen, ptr null, ptr null, i64 0)
  ret void
}
define internal void @wake(ptr %flag) nounwind {
  call i64 (i64, ...) @syscall(i64 FUTEX, ptr %flag, i64 129, i64 2147483647, ptr null, ptr null, i64 0)
  ret void
}
define internal void @note(ptr %member) nounwind {
  %processor = call i32 @sched_getcpu()
  %where = getelementptr %member, ptr %member, i64 0, i32 6
  store atomic i32 %processor, ptr %where monotonic, align 4
  ret void
}
"""
_MACOS = """
declare i32 @__ulock_wait(i32, ptr, i64, i32)
declare i32 @__ulock_wake(i32, ptr, i64)
define internal void @sleep(ptr %flag, i32 %seen) nounwind {
  %value = zext i32 %seen to i64
  call i32 @__ulock_wait(i32 1, ptr %flag, i64 %value, i32 0)
  ret void
}
define internal void @wake(ptr %flag) nounwind {
  call i32 @__ulock_wake(i32 257, ptr %flag, i64 0)
  ret void
}
define internal void @note(ptr %member) nounwind {
  ret void
}
"""
_WINDOWS = """
declare i32 @WaitOnAddress(ptr, ptr, i64, i32)
declare void @WakeByAddressAll(ptr)
define internal void @sleep(ptr %flag, i32 %seen) nounwind {
  %compare = alloca i32
  store i32 %seen, ptr %compare
  call i32 @WaitOnAddress(ptr %flag, ptr %compare, i64 4, i32 -1)
  ret void
}
define internal void @wake(ptr %flag) nounwind {
  call void @WakeByAddressAll(ptr %flag)
  ret void
}
define internal void @note(ptr %member) nounwind {
  ret void
}
"""


def team_ir(target: Target) -> str | None:
    """Return the module that defines `FUNCTIONS`, or None for a system where it is not known how to sleep."""
    systems = {"linux": _LINUX, "apple": _MACOS, "windows": _WINDOWS}
    system = next((text for name, text in systems.items() if name in target.triple), None)
    if system is None:
        return None
    declaration, pause = _PAUSE[target.architecture]
    system = system.replace("FUTEX", f"{_FUTEX[target.architecture]}")
    return _TYPES + declaration + system + _WAITING.replace("PAUSE", pause) + _WORKING


_TYPES = """
; one thread counts the value up, others wait until it has reached a number
%flag = type { i32, i32 }
; function, args, nt, looks before a thread that waits falls asleep
%job = type { ptr, ptr, i64, i64 }
; busy, nt of the last call, looks of an idle worker, looks in a call, calls to go without OpenMP, how many these were
; the last time; then the job for the threads of OpenMP, and GOMP_parallel, omp_get_num_threads, omp_get_thread_num,
; omp_get_max_threads
%team = type { i32, i64, i64, i64, i64, i64, [10 x i64], %job, [4 x ptr], [8 x i64] }
; what a kernel gets as its team. Written by the caller: the barrier, tid, job, go; by the thread itself: here (at the
; barrier), done, and the processor that it was last seen on
%member = type { ptr, i64, %job, %flag, [9 x i64], { %flag, %flag }, i32, [13 x i64] }
"""

_WAITING = """
; count a flag up to %value. The value is written before the sleepers are read, and a sleeper counts itself before it
; reads the value, all sequentially consistent: one of the two sees the other
define internal void @post(ptr %flag, i32 %value) nounwind {
  atomicrmw xchg ptr %flag, i32 %value seq_cst
  %at = getelementptr %flag, ptr %flag, i64 0, i32 1
  %sleepers = load atomic i32, ptr %at seq_cst, align 4
  %any = icmp ne i32 %sleepers, 0
  br i1 %any, label %call, label %done
call:
  call void @wake(ptr %flag)
  br label %done
done:
  ret void
}

; wait until a flag of %theirs has reached %value (numbers that wrap around): %looks, then asleep. Looking is of no use
; where the other thread was last seen on the processor of this one: it has to be let there
define internal void @await(ptr %flag, i32 %value, i64 %looks, ptr %own, ptr %theirs) nounwind {
entry:
  %now = load atomic i32, ptr %flag acquire, align 4
  %ahead = sub i32 %now, %value
  %there = icmp sge i32 %ahead, 0
  br i1 %there, label %done, label %begin
begin:
  %own.at = getelementptr %member, ptr %own, i64 0, i32 6
  %own.processor = load atomic i32, ptr %own.at monotonic, align 4
  %their.at = getelementptr %member, ptr %theirs, i64 0, i32 6
  %their.processor = load atomic i32, ptr %their.at monotonic, align 4
  %shared = icmp eq i32 %own.processor, %their.processor
  %patience = select i1 %shared, i64 0, i64 %looks
  br label %look
look:
  %i = phi i64 [ 0, %begin ], [ %next, %again ]
  %patient = icmp slt i64 %i, %patience
  br i1 %patient, label %again, label %tired
again:
  PAUSE
  %next = add i64 %i, 1
  %new = load atomic i32, ptr %flag acquire, align 4
  %past = sub i32 %new, %value
  %met = icmp sge i32 %past, 0
  br i1 %met, label %done, label %look
tired:
  %sleepers = getelementptr %flag, ptr %flag, i64 0, i32 1
  atomicrmw add ptr %sleepers, i32 1 seq_cst
  br label %check
check:
  %later = load atomic i32, ptr %flag seq_cst, align 4
  %beyond = sub i32 %later, %value
  %reached = icmp sge i32 %beyond, 0
  br i1 %reached, label %leave, label %rest
rest:
  call void @sleep(ptr %flag, i32 %later)
  br label %check
leave:
  atomicrmw sub ptr %sleepers, i32 1 seq_cst
  call void @note(ptr %own)
  br label %done
done:
  ret void
}

; the barrier: say that this thread is here, then wait for every other one; one that is a round ahead says so too
define internal void @meet(ptr %member, i64 %nt) nounwind {
entry:
  %tid.at = getelementptr %member, ptr %member, i64 0, i32 1
  %tid = load i64, ptr %tid.at
  %looks.at = getelementptr %member, ptr %member, i64 0, i32 2, i32 3
  %looks = load i64, ptr %looks.at
  %here = getelementptr %member, ptr %member, i64 0, i32 5, i32 0
  %before = load atomic i32, ptr %here monotonic, align 4
  %round = add i32 %before, 1
  call void @post(ptr %here, i32 %round)
  br label %loop
loop:
  %j = phi i64 [ 0, %entry ], [ %j.next, %loop ]
  %away = sub i64 %j, %tid
  %theirs = getelementptr %member, ptr %member, i64 %away
  %flag = getelementptr %member, ptr %theirs, i64 0, i32 5, i32 0
  call void @await(ptr %flag, i32 %round, i64 %looks, ptr %member, ptr %theirs)
  %j.next = add i64 %j, 1
  %more = icmp slt i64 %j.next, %nt
  br i1 %more, label %loop, label %done
done:
  ret void
}

; %n pauses, to measure how long they take
define void @recur_pause(i64 %n) nounwind {
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  PAUSE
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %n
  br i1 %more, label %loop, label %done
done:
  ret void
}
"""

_WORKING = """
; set up zeroed memory for a team of %n; the functions of OpenMP are null where it is not used
define void @recur_prepare(ptr %team, i64 %n, i64 %idle, i64 %looks, ptr %parallel, ptr %size, ptr %number, ptr %limit)
    nounwind {
entry:
  %idle.at = getelementptr %team, ptr %team, i64 0, i32 2
  store i64 %idle, ptr %idle.at
  %looks.at = getelementptr %team, ptr %team, i64 0, i32 3
  store i64 %looks, ptr %looks.at
  %parallel.at = getelementptr %team, ptr %team, i64 0, i32 8, i32 0
  store ptr %parallel, ptr %parallel.at
  %size.at = getelementptr %team, ptr %team, i64 0, i32 8, i32 1
  store ptr %size, ptr %size.at
  %number.at = getelementptr %team, ptr %team, i64 0, i32 8, i32 2
  store ptr %number, ptr %number.at
  %limit.at = getelementptr %team, ptr %team, i64 0, i32 8, i32 3
  store ptr %limit, ptr %limit.at
  %first = getelementptr %team, ptr %team, i64 1
  br label %loop
loop:
  %tid = phi i64 [ 0, %entry ], [ %next, %loop ]
  %member = getelementptr %member, ptr %first, i64 %tid
  store ptr @meet, ptr %member
  %tid.at = getelementptr %member, ptr %member, i64 0, i32 1
  store i64 %tid, ptr %tid.at
  ; on no processor yet, each on another
  %where = trunc i64 %tid to i32
  %nowhere = xor i32 %where, -1
  %where.at = getelementptr %member, ptr %member, i64 0, i32 6
  store i32 %nowhere, ptr %where.at
  %next = add i64 %tid, 1
  %more = icmp slt i64 %next, %n
  br i1 %more, label %loop, label %done
done:
  ret void
}

; do one thread's part of a job
define internal void @part(ptr %job, i64 %nt, ptr %member) nounwind {
  call void @note(ptr %member)
  %function = load ptr, ptr %job
  %args.at = getelementptr %job, ptr %job, i64 0, i32 1
  %args = load ptr, ptr %args.at
  %tid.at = getelementptr %member, ptr %member, i64 0, i32 1
  %tid = load i64, ptr %tid.at
  call void %function(ptr %args, i64 %tid, i64 %nt, ptr %member)
  ret void
}

; the life of a worker: wait for the next job, do it, say so
define void @recur_worker(ptr %member) nounwind {
entry:
  %tid.at = getelementptr %member, ptr %member, i64 0, i32 1
  %tid = load i64, ptr %tid.at
  %back = sub i64 0, %tid
  %first = getelementptr %member, ptr %member, i64 %back
  %team = getelementptr %team, ptr %first, i64 -1
  %idle.at = getelementptr %team, ptr %team, i64 0, i32 2
  %idle = load i64, ptr %idle.at
  %job = getelementptr %member, ptr %member, i64 0, i32 2
  %nt.at = getelementptr %job, ptr %job, i64 0, i32 2
  %go = getelementptr %member, ptr %member, i64 0, i32 3
  %done = getelementptr %member, ptr %member, i64 0, i32 5, i32 1
  br label %loop
loop:
  %number = phi i32 [ 1, %entry ], [ %next, %loop ]
  call void @await(ptr %go, i32 %number, i64 %idle, ptr %member, ptr %first)
  %nt = load i64, ptr %nt.at
  call void @part(ptr %job, i64 %nt, ptr %member)
  call void @post(ptr %done, i32 %number)
  %next = add i32 %number, 1
  br label %loop
}

; what each thread of OpenMP does; there may be more or fewer of them than were asked for
define internal void @openmp_part(ptr %team) nounwind {
  %number.at = getelementptr %team, ptr %team, i64 0, i32 8, i32 2
  %number.f = load ptr, ptr %number.at
  %number = call i32 %number.f()
  %tid = zext i32 %number to i64
  %size.at = getelementptr %team, ptr %team, i64 0, i32 8, i32 1
  %size.f = load ptr, ptr %size.at
  %size32 = call i32 %size.f()
  %size = zext i32 %size32 to i64
  %job = getelementptr %team, ptr %team, i64 0, i32 7
  %nt.at = getelementptr %job, ptr %job, i64 0, i32 2
  %asked = load i64, ptr %nt.at
  %few = icmp slt i64 %size, %asked
  %nt = select i1 %few, i64 %size, i64 %asked
  %in = icmp slt i64 %tid, %nt
  br i1 %in, label %work, label %done
work:
  %first = getelementptr %team, ptr %team, i64 1
  %member = getelementptr %member, ptr %first, i64 %tid
  %looks.from = getelementptr %job, ptr %job, i64 0, i32 3
  %looks = load i64, ptr %looks.from
  %looks.to = getelementptr %member, ptr %member, i64 0, i32 2, i32 3
  store i64 %looks, ptr %looks.to
  call void @part(ptr %job, i64 %nt, ptr %member)
  br label %done
done:
  ret void
}

; run a job on the threads of OpenMP. All of them are called, for libgomp ends those that it is not asked for. Where a
; thread shared a processor with the caller, the machine is busy and they would go on spinning there for milliseconds:
; the next calls are left to the workers, twice as many each time and half as many again for each time that all is well
define internal void @by_openmp(ptr %team, ptr %parallel, ptr %job, i64 %nt) nounwind {
entry:
  %own = getelementptr %team, ptr %team, i64 0, i32 7
  %copy = load %job, ptr %job
  store %job %copy, ptr %own
  %limit.at = getelementptr %team, ptr %team, i64 0, i32 8, i32 3
  %limit.f = load ptr, ptr %limit.at
  %limit = call i32 %limit.f()
  %nt32 = trunc i64 %nt to i32
  %larger = icmp sgt i32 %limit, %nt32
  %size = select i1 %larger, i32 %limit, i32 %nt32
  call void %parallel(ptr @openmp_part, ptr %team, i32 %size, i32 0)
  %first = getelementptr %team, ptr %team, i64 1
  %where.at = getelementptr %member, ptr %first, i64 0, i32 6
  %where = load atomic i32, ptr %where.at monotonic, align 4
  br label %loop
loop:
  %j = phi i64 [ 1, %entry ], [ %j.next, %loop ]
  %other = phi i1 [ true, %entry ], [ %others, %loop ]
  %j.at = getelementptr %member, ptr %first, i64 %j, i32 6
  %j.where = load atomic i32, ptr %j.at monotonic, align 4
  %apart = icmp ne i32 %j.where, %where
  %others = and i1 %other, %apart
  %j.next = add i64 %j, 1
  %more = icmp slt i64 %j.next, %nt
  br i1 %more, label %loop, label %done
done:
  %last.at = getelementptr %team, ptr %team, i64 0, i32 5
  %last = load i64, ptr %last.at
  %double = shl i64 %last, 1
  %least = call i64 @llvm.umax.i64(i64 %double, i64 4)
  %longer = call i64 @llvm.umin.i64(i64 %least, i64 4096)
  %half = lshr i64 %last, 1
  %new = select i1 %others, i64 %half, i64 %longer
  store i64 %new, ptr %last.at
  %without = select i1 %others, i64 0, i64 %longer
  %hold.at = getelementptr %team, ptr %team, i64 0, i32 4
  store i64 %without, ptr %hold.at
  ret void
}
declare i64 @llvm.umin.i64(i64, i64)
declare i64 @llvm.umax.i64(i64, i64)

; run a job on the workers: hand it out, do part 0, wait for the others
define internal void @by_workers(ptr %team, ptr %job, i64 %nt) nounwind {
entry:
  %first = getelementptr %team, ptr %team, i64 1
  %copy = load %job, ptr %job
  br label %hand
hand:
  %h = phi i64 [ 1, %entry ], [ %h.next, %hand ]
  %h.job = getelementptr %member, ptr %first, i64 %h, i32 2
  store %job %copy, ptr %h.job
  %h.go = getelementptr %member, ptr %first, i64 %h, i32 3
  %h.before = load atomic i32, ptr %h.go monotonic, align 4
  %h.number = add i32 %h.before, 1
  call void @post(ptr %h.go, i32 %h.number)
  %h.next = add i64 %h, 1
  %h.more = icmp slt i64 %h.next, %nt
  br i1 %h.more, label %hand, label %own
own:
  call void @part(ptr %job, i64 %nt, ptr %first)
  %looks.at = getelementptr %job, ptr %job, i64 0, i32 3
  %looks = load i64, ptr %looks.at
  br label %join
join:
  %j = phi i64 [ 1, %own ], [ %j.next, %join ]
  %j.member = getelementptr %member, ptr %first, i64 %j
  %j.go = getelementptr %member, ptr %j.member, i64 0, i32 3
  %j.number = load atomic i32, ptr %j.go monotonic, align 4
  %j.done = getelementptr %member, ptr %j.member, i64 0, i32 5, i32 1
  call void @await(ptr %j.done, i32 %j.number, i64 %looks, ptr %first, ptr %j.member)
  %j.next = add i64 %j, 1
  %j.more = icmp slt i64 %j.next, %nt
  br i1 %j.more, label %join, label %done
done:
  ret void
}

; run a function on %nt threads; alone where another caller has the team
define void @recur_dispatch(ptr %team, ptr %function, ptr %args, i64 %nt) nounwind {
entry:
  %alone = icmp sle i64 %nt, 1
  br i1 %alone, label %solo, label %take
take:
  %pair = cmpxchg ptr %team, i32 0, i32 1 acq_rel monotonic
  %got = extractvalue { i32, i1 } %pair, 1
  br i1 %got, label %begin, label %solo
solo:
  call void %function(ptr %args, i64 0, i64 1, ptr null)
  ret void
begin:
  %first = getelementptr %team, ptr %team, i64 1
  %looks.at = getelementptr %team, ptr %team, i64 0, i32 3
  %looks = load i64, ptr %looks.at
  %job = getelementptr %member, ptr %first, i64 0, i32 2
  store ptr %function, ptr %job
  %job.args = getelementptr %job, ptr %job, i64 0, i32 1
  store ptr %args, ptr %job.args
  %job.nt = getelementptr %job, ptr %job, i64 0, i32 2
  store i64 %nt, ptr %job.nt
  %job.looks = getelementptr %job, ptr %job, i64 0, i32 3
  store i64 %looks, ptr %job.looks
  %last.at = getelementptr %team, ptr %team, i64 0, i32 1
  %last = load i64, ptr %last.at
  %same = icmp eq i64 %last, %nt
  br i1 %same, label %choose, label %level
; another number of threads than in the last call: not all were at the same barriers, so that all start from 0
level:
  %l = phi i64 [ 0, %begin ], [ %l.next, %level ]
  %l.here = getelementptr %member, ptr %first, i64 %l, i32 5, i32 0
  store atomic i32 0, ptr %l.here monotonic, align 4
  %l.next = add i64 %l, 1
  %l.more = icmp slt i64 %l.next, %nt
  br i1 %l.more, label %level, label %levelled
levelled:
  store i64 %nt, ptr %last.at
  br label %choose
choose:
  %parallel.at = getelementptr %team, ptr %team, i64 0, i32 8, i32 0
  %parallel = load ptr, ptr %parallel.at
  %none = icmp eq ptr %parallel, null
  br i1 %none, label %workers, label %maybe
maybe:
  %hold.at = getelementptr %team, ptr %team, i64 0, i32 4
  %hold = load i64, ptr %hold.at
  %held = icmp ne i64 %hold, 0
  br i1 %held, label %wait, label %openmp
wait:
  %less = sub i64 %hold, 1
  store i64 %less, ptr %hold.at
  br label %workers
workers:
  call void @by_workers(ptr %team, ptr %job, i64 %nt)
  br label %release
openmp:
  call void @by_openmp(ptr %team, ptr %parallel, ptr %job, i64 %nt)
  br label %release
release:
  store atomic i32 0, ptr %team release, align 4
  ret void
}
"""
