/* The protocol of one function's queue between an engine, its invokers and its hosts, under faults.
 *
 * Processes: Engine (the scripts of FunctionQueue, each one atomic step), Invoker x2 (InvocationMachine and
 * its driver), Host x1 or x2 (SandboxMachine and its driver), Network (what it loses or doubles), Trouble
 * (crashes, pauses, flushes, a redeploy, failing sandboxes), Timers (repair, announce, observers of deaths).
 *
 * Network: each node has a bag of messages; any of them may arrive next, after any delay. An operation that
 * its sender repeats until it is answered therefore stays in the bag until then: losing the request is a
 * delay, losing the reply is executing it again. Only what nobody repeats can be lost for good.
 * Timers: whenever everything is at rest and not well, the next timer fires; EARLY times any of them may
 * fire at any moment, into whatever is going on.
 * Whatever waits for something to come waits in a bag, so "all bags are empty" is "at rest".
 *
 * What must hold (docs/invariants.md) is asserted: I1, I2, I8 where a call is admitted, I3, I4, I10 after
 * every script, and all of them once more at rest, after ROUNDS rounds of timers without a new fault.
 * Mixes of faults and planted bugs are chosen with -D; model/run knows them all.
 */

#ifndef NR
#define NR 2          /* calls, given to the invokers in turn */
#endif
#ifndef NI
#define NI 2          /* invokers */
#endif
#if defined(TWO_HOSTS) || defined(CRASH_HOST)
#define NH 2          /* hosts; after a crash the second is the first one's next incarnation */
#else
#define NH 1
#endif
#ifndef SPH
#define SPH 2         /* sandboxes per host; a number is used again when nothing anywhere mentions it */
#endif
#define NS (NH * SPH)
#ifndef NST
#define NST 3         /* start ids, likewise */
#endif
#ifndef CAP
#define CAP 1         /* max_sandboxes */
#endif
#ifndef MAX_STARTS
#define MAX_STARTS 2
#endif
#ifndef MAX_ATTEMPTS
#define MAX_ATTEMPTS 3
#endif
#ifndef BUDGET
#define BUDGET 1      /* of starts that fail in a row */
#endif
#ifndef ROUNDS
#define ROUNDS 3
#endif
/* How often each may happen. */
#ifndef CANCELS
#define CANCELS 1
#endif
#ifndef EARLY
#define EARLY 0
#endif
#ifndef LOSS_REQUEST
#define LOSS_REQUEST 0
#endif
#ifndef LOSS_REPLY
#define LOSS_REPLY 0
#endif
#ifndef DUPLICATE
#define DUPLICATE 0
#endif
#ifndef BREAK
#define BREAK 0       /* the connection of a call breaks; nobody knows whether it began */
#endif
#ifndef DEATHS
#define DEATHS 0      /* sandboxes that fail to start, die idle, or end a call badly */
#endif
#ifndef WITHDRAW
#define WITHDRAW 0
#endif

#define NO 15         /* no request, sandbox, start */
#define inv(R)  ((R) % NI)
#define host(S) ((S) / SPH)

mtype = { ACQUIRE, CANCEL, SETTLE, REPAIR, PURGE,                           /* invoker, observer -> engine */
          CLAIM, OFFER, FAILED, GONE, TAKE_BACK, ANNOUNCE, TAKE_OVER,       /* host, observer -> engine */
          DEFINE, BACKOFF_ENDS,
          GRANT, FAILURE, HOLDS, WAITS, NOTHING,                            /* engine -> invoker */
          START, CLAIMED, OFFERED, TAKEN_BACK, RETIRE, RECLAIM, HELD,       /* engine -> host */
          CALL, ANSWER,                                                     /* invoker <-> host */
          READY, ENDS, REAPED };                                            /* host -> itself */

/* op, request, attempt, sandbox, token, start, and two more that depend on op */
chan up = [12] of { mtype, byte, byte, byte, byte, byte, byte, byte };
chan to_invoker[NI] = [6] of { mtype, byte, byte, byte, byte, byte, byte, byte };
chan to_host[NH] = [10] of { mtype, byte, byte, byte, byte, byte, byte, byte };

/* ---- the engine's memory */

#define NONE 0
#define IDLE 1
#define LEASED 2
#define DISPUTED 3
#define RETIRING 4

typedef Record { byte state, token, owner, attempt, generation; bit suspect }
typedef Memory {
  Record rec[NS];
  bit gone[NS];       /* reaped not long ago */
  byte lease_of[NR];     /* index by request: sandbox + 1 */
  byte waits[NR];     /* attempt, or 0. The order of waiters is left out: any of them may be next */
  byte start[NST];    /* 0, unclaimed 1, claimed by sandbox + 2 */
  byte start_version[NST];
  byte version;
  byte failed;        /* in a row */
  bit backoff
}
Memory e;
#ifdef PARTIAL_LOSS
Memory old;           /* what the replica has */
#endif
byte version_of[NS];  /* of a sandbox; never changes */

/* ---- hosts */

#define CLAIMING 1
#define STARTING 2
#define WARM 3        /* idle */
#define BUSY 4
#define ENDING 5

typedef Sandbox { byte state, highest, generation, origin, token, owner, attempt; bit pending, was_ready, unwanted, withdrawing, told_again }
Sandbox at[NS];
bit host_alive[NH];

/* ---- invokers */

#define NEW 0
#define WAITING 1
#define HOLDING 2
#define DONE 3

typedef Call { byte phase, attempt, on, token, at_least }
Call c[NR];
bit alive[NI], paused[NI];

/* ---- ghosts and budgets */

byte ran[NR];         /* how often a call has begun */
byte granted[NS];     /* the last token granted, since the engine last lost anything */
byte acknowledged;    /* version */
bit redeployed;
byte cancels = CANCELS, early = EARLY, request_losses = LOSS_REQUEST, reply_losses = LOSS_REPLY,
     duplicates = DUPLICATE, breaks = BREAK, deaths = DEATHS, withdraws = WITHDRAW;
byte rounds, due;
bit crashed_invoker, crashed_host, did_pause, purged, flushed, snapped, failed_over;
bit rested;           /* at rest, and well; until somebody does something */

#define lost_memory (flushed || failed_over)

/* ---- scratch: nothing outside an atomic step */

mtype op; byte req, att, sb, tok, sid, arg, arg2;  /* the message at hand */
byte ii, jj, kk, ww, xx, yy, waiting, covering, live, starts;
byte freed;           /* sandbox + 1 that a script has made available */
bit keep, unanswered, well, found, resend;
hidden mtype op_; hidden byte req_, att_, sb_, tok_, sid_, arg_, arg2_;  /* hidden: only within one d_step */

inline forget() {
  d_step {
    op = 0; req = 0; att = 0; sb = 0; tok = 0; sid = 0; arg = 0; arg2 = 0;
    ii = 0; jj = 0; kk = 0; ww = 0; xx = 0; yy = 0; waiting = 0; covering = 0; live = 0; starts = 0; freed = 0;
    keep = 0; unanswered = 0; well = 0; found = 0; resend = 0
  }
}

#define send(ch, OP, R, A, S, T, N, G, H) ch!!OP, R, A, S, T, N, G, H

/* Any one message of a bag, into m, r, a, s, t, n, g, h. If `keep`, it stays and comes once more. */
inline take(ch) {
  kk = 0;
  do :: kk + 1 < len(ch) -> kk++ :: break od;
  skip;
  d_step {
    ii = 0; jj = len(ch);
    do
    :: ii < jj && ii != kk -> ch?op_, req_, att_, sb_, tok_, sid_, arg_, arg2_; ch!op_, req_, att_, sb_, tok_, sid_, arg_, arg2_; ii++
    :: ii < jj && ii == kk ->
       ch?op, req, att, sb, tok, sid, arg, arg2;
       printf("%e r%d.%d s%d t%d n%d %d %d\n", op, req, att, sb, tok, sid, arg, arg2);
       if :: keep -> ch!op, req, att, sb, tok, sid, arg, arg2 :: else fi;
       ii++
    :: ii >= jj -> break
    od;
    skip
  }
}

inline disturbed() { rounds = 0; due = 0; rested = 0 }

/* Numbers are used again when nothing mentions them: nobody can tell them from new ones. */
#define sandbox_in(ch, X) ch??[_, _, _, eval(X), _, _, _, _]
#define start_in(ch, X) ch??[_, _, _, _, _, eval(X), _, _]
#define sandbox_mentioned(X) (sandbox_in(up, X) || sandbox_in(to_invoker[0], X) || sandbox_in(to_invoker[NI - 1], X) || \
  sandbox_in(to_host[0], X) || sandbox_in(to_host[NH - 1], X))
#define start_mentioned(X) (start_in(up, X) || start_in(to_host[0], X) || start_in(to_host[NH - 1], X))

#define REUSABLE 0
#define REFUSED 1
#define RETIRED 2
#define NEVER 3   /* of an answer: the call never began, its sandbox is no more */

#define begins(S, X) (at[S].state != 0 && at[S].origin == X)
#if NS == 1
#define begun_for(X) begins(0, X)
#elif NS == 2
#define begun_for(X) (begins(0, X) || begins(1, X))
#elif NS == 3
#define begun_for(X) (begins(0, X) || begins(1, X) || begins(2, X))
#elif NS == 4
#define begun_for(X) (begins(0, X) || begins(1, X) || begins(2, X) || begins(3, X))
#else
#define begun_for(X) (begins(0, X) || begins(1, X) || begins(2, X) || begins(3, X) || begins(4, X) || begins(5, X))
#endif
#ifdef PARTIAL_LOSS
#define REPLICA_START(X) || old.start[X] != 0
#else
#define REPLICA_START(X)
#endif

#define held_by(R, X) (c[R].phase == HOLDING && c[R].on == X)
#if NR == 2
#define held(X) (held_by(0, X) || held_by(1, X))
#else
#define held(X) (held_by(0, X) || held_by(1, X) || held_by(2, X))
#endif
#if NST == 2
#define claimed(M, X) (M.start[0] == X + 2 || M.start[1] == X + 2)
#elif NST == 3
#define claimed(M, X) (M.start[0] == X + 2 || M.start[1] == X + 2 || M.start[2] == X + 2)
#else
#define claimed(M, X) (M.start[0] == X + 2 || M.start[1] == X + 2 || M.start[2] == X + 2 || M.start[3] == X + 2)
#endif
#ifdef PARTIAL_LOSS
#define in_replica(X) (old.rec[X].state != NONE || old.gone[X] || claimed(old, X))
#else
#define in_replica(X) 0
#endif
#define unused(X) (at[X].state == 0 && e.rec[X].state == NONE && !claimed(e, X) && !held(X) && !in_replica(X) && !sandbox_mentioned(X))

/* ---- the engine: FunctionQueue */

inline tell_invoker(R, OP, A, S, T) {
  if
  :: alive[inv(R)] -> send(to_invoker[inv(R)], OP, R, A, S, T, NO, 0, 0)
  :: else
  fi
}
inline tell_host(H, OP, R, A, S, T, N, G, X) {
  if
  :: host_alive[H] -> send(to_host[H], OP, R, A, S, T, N, G, X)
  :: else
  fi
}

/* A start travels with the invoker of some waiter to some host; where nothing mends, to every host. */
inline carry(X) {
  yy = 0;
  do :: yy < NR - 1 && e.waits[yy] == 0 -> yy++ :: else -> break od;
#if defined(NO_REPAIR) && NH == 2
  tell_host(0, START, yy, 0, NO, 0, X, e.start_version[X], 0);
  tell_host(1, START, yy, 0, NO, 0, X, e.start_version[X], 0)
#else
  if
  :: host_alive[0] -> tell_host(0, START, yy, 0, NO, 0, X, e.start_version[X], 0)
#if NH == 2
  :: host_alive[1] -> tell_host(1, START, yy, 0, NO, 0, X, e.start_version[X], 0)
#endif
  fi
#endif
}

inline count() {
  waiting = 0; covering = 0; live = 0; starts = 0;
  xx = 0;
  do :: xx < NR -> if :: e.waits[xx] != 0 -> waiting++ :: else fi; xx++ :: else -> break od;
  xx = 0;
  do
  :: xx < NST ->
     if
#ifdef BUG_COUNT_OLD_STARTS_AS_COVER
     :: e.start[xx] != 0 -> starts++; covering++
#else
     :: e.start[xx] != 0 -> starts++; if :: e.start_version[xx] == e.version -> covering++ :: else fi
#endif
     :: else
     fi;
     xx++
  :: else -> break
  od;
  xx = 0;
  do :: xx < NS -> if :: e.rec[xx].state != NONE -> live++ :: else fi; xx++ :: else -> break od;
  skip
}
#define at_cap (starts >= MAX_STARTS || live + starts >= CAP)

/* Uncovered waiters have starts requested, up to the caps. */
inline evaluate() {
  d_step { count() };
  do
  :: !e.backoff && covering < waiting && !at_cap ->
     xx = 0;
     do
#ifdef BUG_START_IDS_AGAIN
     :: xx < NST && e.start[xx] != 0 -> xx++
#else
     :: xx < NST && (e.start[xx] != 0 || start_mentioned(xx) || begun_for(xx) REPLICA_START(xx)) -> xx++
#endif
     :: else -> break
     od;
     assert(xx < NST);  /* else NST is too small */
     e.start[xx] = 1; e.start_version[xx] = e.version;
     carry(xx);
     starts++; covering++
  :: else -> break
  od
}
/* Whoever carried the unclaimed ones may be gone. */
inline send_again() {
#ifndef BUG_SEND_NO_START_AGAIN
  d_step { count() };
  ii = 0;
  do
  :: waiting > 0 && ii < NST -> if :: e.start[ii] == 1 -> carry(ii) :: else fi; ii++
  :: else -> break
  od
#else
  skip
#endif
}

inline grant(S, R, A) {
  e.rec[S].state = LEASED; e.rec[S].token++; e.rec[S].owner = R; e.rec[S].attempt = A; e.rec[S].suspect = 0;
  e.lease_of[R] = S + 1;
  assert(e.rec[S].token > granted[S]);  /* I1: tokens only grow */
  granted[S] = e.rec[S].token
}
inline unindex(S) {
  if :: e.lease_of[e.rec[S].owner] == S + 1 -> e.lease_of[e.rec[S].owner] = 0 :: else fi;
  e.rec[S].owner = 0; e.rec[S].attempt = 0; e.rec[S].suspect = 0
}
inline retire(S) {
  if
  :: e.rec[S].state != RETIRING ->
     e.rec[S].state = RETIRING;
     tell_host(host(S), RETIRE, NO, 0, S, 0, NO, 0, 0)
  :: else
  fi
}
/* It became available: to a waiter, else idle. */
inline place(S) {
  if
  :: version_of[S] != e.version -> retire(S)
  :: else ->
     d_step { count() };
     if
#ifndef BUG_HAND_OVER_TO_NOBODY
     :: waiting > 0 ->
        if
        :: e.waits[0] != 0 -> ww = 0
#if NR > 1
        :: e.waits[1] != 0 -> ww = 1
#endif
#if NR > 2
        :: e.waits[2] != 0 -> ww = 2
#endif
        fi;
        yy = e.waits[ww]; e.waits[ww] = 0;
        grant(S, ww, yy);
        tell_invoker(ww, GRANT, yy, S, e.rec[S].token)
#endif
     :: else -> e.rec[S].state = IDLE
     fi
  fi
}
#define lease_is(S, T, R, A) (e.rec[S].state == LEASED && e.rec[S].token == T && e.rec[S].owner == R && e.rec[S].attempt == A)
/* The lease of S ends; it is known to be the one that is meant. */
inline end_lease(S, how) {
  unindex(S);
  if
  :: how == REUSABLE -> freed = S + 1
  :: how == REFUSED -> e.rec[S].state = DISPUTED
  :: how == RETIRED -> retire(S)
  fi
}
inline erase(S) {
  if :: e.rec[S].state == LEASED -> unindex(S) :: else fi;
  e.rec[S].state = NONE; e.rec[S].token = 0; e.rec[S].generation = 0; e.rec[S].owner = 0; e.rec[S].attempt = 0; e.rec[S].suspect = 0
}

inline reply(R, A, S, T) {
  if :: !unanswered -> tell_invoker(R, GRANT, A, S, T) :: else fi
}
inline reply_host(S, OP, G, X) {
  if :: !unanswered -> tell_host(host(S), OP, NO, 0, S, 0, sid, G, X) :: else fi
}

inline do_acquire() {  /* the lease of the request's previous attempt: sb, tok, and its outcome arg2 */
  found = 0;
  if
  :: e.lease_of[req] != 0 ->
     jj = e.lease_of[req] - 1;
     if
     :: e.rec[jj].attempt > att -> found = 1
     :: e.rec[jj].attempt == att -> found = 1; reply(req, att, jj, e.rec[jj].token)
#ifdef BUG_PREVIOUS_OF_ANY_LEASE
     :: else -> end_lease(jj, arg2)
#else
     :: else ->
        if
        :: jj == sb && e.rec[jj].token == tok -> end_lease(jj, arg2)
        :: else -> end_lease(jj, REUSABLE)  /* granted to a late duplicate, or not yet told: never used */
        fi
#endif
     fi
  :: else
  fi
}
inline join() {
  if
  :: !found && e.waits[req] > att -> found = 1
  :: else
  fi;
  if
  :: !found ->
     e.waits[req] = 0;
     if
     :: e.rec[0].state == IDLE -> sb = 0; found = 1
#if NS > 1
     :: e.rec[1].state == IDLE -> sb = 1; found = 1
#endif
#if NS > 2
     :: e.rec[2].state == IDLE -> sb = 2; found = 1
#endif
#if NS > 3
     :: e.rec[3].state == IDLE -> sb = 3; found = 1
#endif
#ifdef BUG_LEASE_TWICE
     :: e.rec[0].state == LEASED -> sb = 0; found = 1
#endif
     :: else
     fi;
     if
     :: found ->
#ifdef BUG_LEASE_TWICE
        if :: e.rec[sb].state == LEASED -> unindex(sb); e.rec[sb].token-- ; granted[sb]-- :: else fi;
#endif
        grant(sb, req, att); reply(req, att, sb, e.rec[sb].token)
     :: else ->
        e.waits[req] = att;
        d_step { count() };
        resend = (waiting == 1)
     fi
  :: else
  fi
}

inline do_cancel() {
  if
  :: e.waits[req] != 0 -> if :: e.waits[req] <= att -> e.waits[req] = 0 :: else fi
  :: else ->
#ifndef BUG_FORGET_A_CANCEL
     if
     :: e.lease_of[req] != 0 ->
        sb = e.lease_of[req] - 1;
        if :: e.rec[sb].attempt <= att -> end_lease(sb, REUSABLE) :: else fi
     :: else
     fi;
#endif
     skip
  fi;
  /* I3: given up is given up */
  assert(!(e.waits[req] != 0 && e.waits[req] <= att) && !(e.lease_of[req] != 0 && e.rec[e.lease_of[req] - 1].attempt <= att))
}

inline do_settle() {  /* h: how */
#ifdef BUG_SETTLE_ANY_LEASE
  if :: e.rec[sb].state == LEASED -> end_lease(sb, arg2) :: else fi
#else
  if :: lease_is(sb, tok, req, att) -> end_lease(sb, arg2) :: else fi
#endif
}

inline do_repair() {  /* a: the attempt with which r waits, or 0 */
  found = (att == 0 || e.waits[req] == att);
  if
  :: e.lease_of[req] != 0 ->
     sb = e.lease_of[req] - 1;
     if :: e.rec[sb].attempt == att -> found = 1 :: else fi;
     tell_invoker(req, HOLDS, e.rec[sb].attempt, sb, e.rec[sb].token)
  :: else
  fi;
  if
  :: !found -> tell_invoker(req, NOTHING, att, NO, 0)
  :: else
  fi;
  if
  :: e.waits[req] != 0 -> tell_invoker(req, WAITS, e.waits[req], NO, 0); resend = 1
  :: else
  fi
}

#ifdef BUG_KEEP_WAITERS_OF_THE_DEAD
#define KEPT && 0
#else
#define KEPT
#endif
inline do_purge() {  /* g: the invoker */
  ii = 0;
  do :: ii < NR -> if :: inv(ii) == arg KEPT -> e.waits[ii] = 0 :: else fi; ii++ :: else -> break od;
  resend = 1;
  ii = 0;
  do
  :: ii < NS ->
     if
     :: e.rec[ii].state == LEASED && inv(e.rec[ii].owner) == arg ->
        e.rec[ii].suspect = 1;
        tell_host(host(ii), RECLAIM, e.rec[ii].owner, e.rec[ii].attempt, ii, e.rec[ii].token, NO, 1, 0)
     :: else
     fi;
     ii++
  :: else -> break
  od
}

inline do_claim() {  /* n for s */
  if
#ifdef BUG_CLAIM_TWICE
  :: e.start[sid] != 0 -> e.start[sid] = sb + 2; reply_host(sb, CLAIMED, 1, 0)
#else
  :: e.start[sid] == 1 || e.start[sid] == sb + 2 -> e.start[sid] = sb + 2; reply_host(sb, CLAIMED, 1, 0)
#endif
  :: else -> reply_host(sb, CLAIMED, 0, 0)
  fi
}

inline do_offer() {  /* s; fresh with start n, else returned from lease t, r, a; g: generation; h: highest token */
  if
  :: e.rec[sb].state == NONE ->
     if
     :: sid != NO && e.start[sid] == sb + 2 ->
        e.start[sid] = 0; e.failed = 0; e.backoff = 0;
        e.rec[sb].generation = arg; e.rec[sb].token = arg2;
        freed = sb + 1;
        reply_host(sb, OFFERED, arg, 1)
     :: else -> reply_host(sb, OFFERED, arg, 0)
     fi
  :: e.rec[sb].state == RETIRING -> reply_host(sb, OFFERED, arg, 0)
  :: else ->
     if
     :: arg > e.rec[sb].generation ->
        if
        :: e.rec[sb].state == LEASED && lease_is(sb, tok, req, att) ->
           e.rec[sb].generation = arg; end_lease(sb, REUSABLE)
        :: e.rec[sb].state == DISPUTED && arg2 >= e.rec[sb].token ->
           e.rec[sb].generation = arg; e.rec[sb].token = arg2; freed = sb + 1
        :: e.rec[sb].state == IDLE -> e.rec[sb].generation = arg
        :: else
        fi
     :: else
     fi;
     reply_host(sb, OFFERED, arg, 1)
  fi
}

inline forget_start_of(S) {
  xx = 0;
  do :: xx < NST -> if :: e.start[xx] == S + 2 -> e.start[xx] = 0 :: else fi; xx++ :: else -> break od
}
inline do_gone() {
  erase(sb); e.gone[sb] = 1;
  forget_start_of(sb)
}

inline do_failed() {  /* start n, whose sandbox s is reaped */
  if
  :: e.start[sid] == sb + 2 ->
     e.start[sid] = 0;
     erase(sb); e.gone[sb] = 1;
     if
     :: e.start_version[sid] == e.version ->
        if :: e.failed < BUDGET -> e.failed++ :: else fi;
        e.backoff = 1;
        d_step {
          count();
          found = 0; xx = 0;  /* does a busy one cover? */
          do
          :: xx < NS -> if :: e.rec[xx].state == LEASED && version_of[xx] == e.version -> found = 1 :: else fi; xx++
          :: else -> break
          od;
          skip
        };
        if
        :: e.failed >= BUDGET && waiting > 0 && covering == 0 && !found ->
           if
           :: e.waits[0] != 0 -> ww = 0
#if NR > 1
           :: e.waits[1] != 0 -> ww = 1
#endif
#if NR > 2
           :: e.waits[2] != 0 -> ww = 2
#endif
           fi;
           tell_invoker(ww, FAILURE, e.waits[ww], NO, 0);
           e.waits[ww] = 0
        :: else
        fi
     :: else
     fi
  :: e.start[sid] == 0 -> erase(sb); e.gone[sb] = 1
  :: else
  fi
}

inline do_take_back() {
  if
  :: e.rec[sb].state == RETIRING -> reply_host(sb, TAKEN_BACK, 1, 0)
#ifdef BUG_WITHDRAW_A_LEASED_ONE
  :: e.rec[sb].state == LEASED -> unindex(sb); e.rec[sb].state = RETIRING; reply_host(sb, TAKEN_BACK, 1, 0)
#endif
  :: e.rec[sb].state == IDLE -> e.rec[sb].state = RETIRING; reply_host(sb, TAKEN_BACK, 1, 0)
  :: else -> reply_host(sb, TAKEN_BACK, 0, 0)
  fi
}

inline do_announce() {  /* sb as its host has it: sid state, arg generation (+ 16 if its offer is pending), arg2 highest token; tok, req, att */
  yy = arg / 16; arg = arg % 16;
  found = 0; jj = 0;
  do :: jj < NST -> if :: e.start[jj] == sb + 2 -> found = 1 :: else fi; jj++ :: else -> break od;
#ifndef BUG_ANNOUNCE_HIDES_CLAIMS
  /* A claim for a sandbox that its host does not have: start_failed was answered by a memory that is lost. */
  if
  :: found && sid == 0 -> tell_host(host(sb), HELD, NO, 0, sb, 0, NO, CLAIMING, 0)
  :: else
  fi;
#endif
#ifndef BUG_CLAIM_OUTLIVES_ITS_OFFER
  /* Its offer was acknowledged, by a memory that is lost: nobody offers it again. */
  if
  :: found && yy == 0 && (sid == WARM || sid == BUSY) -> forget_start_of(sb); found = 0
  :: else
  fi;
#endif
  if
  :: e.rec[sb].state != NONE ->
     tell_host(host(sb), HELD, e.rec[sb].owner, e.rec[sb].attempt, sb, e.rec[sb].token, NO, e.rec[sb].state, e.rec[sb].suspect);
     if
     :: e.rec[sb].state == DISPUTED && sid == WARM && yy == 0 && arg2 >= e.rec[sb].token ->
        e.rec[sb].token = arg2;
        if :: arg > e.rec[sb].generation -> e.rec[sb].generation = arg :: else fi;
        freed = sb + 1
     :: else
     fi
  :: e.rec[sb].state == NONE && !found && !e.gone[sb] ->
     if
     :: sid == BUSY ->
        e.rec[sb].state = LEASED; e.rec[sb].token = arg2; e.rec[sb].generation = arg;
        e.rec[sb].owner = req; e.rec[sb].attempt = att; e.lease_of[req] = sb + 1
     :: sid == ENDING -> e.rec[sb].state = RETIRING; e.rec[sb].token = arg2; e.rec[sb].generation = arg
     :: sid == WARM && yy == 0 -> e.rec[sb].token = arg2; e.rec[sb].generation = arg; freed = sb + 1
     :: else
     fi
  :: else
  fi
}

inline do_take_over() {  /* g: the host */
  ii = 0;
  do :: ii < NS -> if :: host(ii) == arg -> erase(ii) :: else fi; ii++ :: else -> break od;
  ii = 0;
  do
  :: ii < NST ->
     if
     :: e.start[ii] >= 2 && host(e.start[ii] - 2) == arg ->
#ifndef BUG_KEEP_CLAIMS_OF_THE_DEAD
        e.start[ii] = (e.start_version[ii] == e.version -> 1 : 0);
#endif
        skip
     :: else
     fi;
     ii++
  :: else -> break
  od;
  resend = 1
}

inline do_define() {  /* g: the version */
  if
  :: arg > e.version ->
     e.version = arg; e.failed = 0; e.backoff = 0;
     ii = 0;
     do :: ii < NST -> if :: e.start[ii] == 1 -> e.start[ii] = 0 :: else fi; ii++ :: else -> break od;
     ii = 0;
     do :: ii < NS -> if :: e.rec[ii].state == IDLE -> retire(ii) :: else fi; ii++ :: else -> break od;
     skip
  :: else
  fi;
  acknowledged = arg
}

inline check_engine() {
  d_step {
    count();
    found = 0; xx = 0;
    do :: xx < NS -> if :: e.rec[xx].state == IDLE -> found = 1 :: else fi; xx++ :: else -> break od;
    covering = 0; xx = 0;
    do
    :: xx < NST -> if :: e.start[xx] != 0 && e.start_version[xx] == e.version -> covering++ :: else fi; xx++
    :: else -> break
    od;
    assert(!(waiting > 0 && found));                                  /* I4 */
    assert(e.backoff || covering >= waiting || at_cap);               /* I10 */
    xx = 0;                                                           /* I6: what exists is counted */
    do
    :: xx < NS -> assert(at[xx].state < STARTING || e.rec[xx].state != NONE || claimed(e, xx) || lost_memory); xx++
    :: else -> break
    od;
    skip
  }
}

inline copy(to, from) {
  xx = 0;
  do
  :: xx < NS ->
     to.rec[xx].state = from.rec[xx].state; to.rec[xx].token = from.rec[xx].token; to.rec[xx].owner = from.rec[xx].owner;
     to.rec[xx].attempt = from.rec[xx].attempt; to.rec[xx].generation = from.rec[xx].generation; to.rec[xx].suspect = from.rec[xx].suspect;
     to.gone[xx] = from.gone[xx]; xx++
  :: else -> break
  od;
  xx = 0;
  do :: xx < NR -> to.lease_of[xx] = from.lease_of[xx]; to.waits[xx] = from.waits[xx]; xx++ :: else -> break od;
  xx = 0;
  do :: xx < NST -> to.start[xx] = from.start[xx]; to.start_version[xx] = from.start_version[xx]; xx++ :: else -> break od;
  to.version = from.version; to.failed = from.failed; to.backoff = from.backoff;
  skip
}
proctype Engine() {
end:
  do
  :: atomic {
       len(up) > 0 ->
       keep = 0; unanswered = 0;
       if
       :: skip
       :: duplicates > 0 -> duplicates--; keep = 1
       :: reply_losses > 0 -> reply_losses--; keep = 1; unanswered = 1  /* and so it is asked again */
       fi;
       if :: keep -> disturbed() :: else fi;
       take(up);
       if
       :: request_losses > 0 && (op == REPAIR || op == ANNOUNCE) && !keep -> request_losses--; disturbed()
       :: op == ACQUIRE -> do_acquire()
       :: op == CANCEL -> do_cancel()
       :: op == SETTLE -> do_settle()
       :: op == REPAIR -> do_repair()
       :: op == PURGE -> do_purge()
       :: op == CLAIM -> do_claim()
       :: op == OFFER -> do_offer()
       :: op == FAILED -> do_failed()
       :: op == GONE -> do_gone()
       :: op == TAKE_BACK -> do_take_back()
       :: op == ANNOUNCE -> do_announce()
       :: op == TAKE_OVER -> do_take_over()
       :: op == DEFINE -> do_define()
       :: op == BACKOFF_ENDS -> e.backoff = 0
       fi;
       if :: freed != 0 -> place(freed - 1) :: else fi;
       if :: op == ACQUIRE -> join() :: else fi;
       if :: resend -> send_again() :: else fi;
       if
#ifdef BUG_NO_STARTS_AFTER_GONE
       :: op == GONE -> skip
#endif
#ifdef BUG_NO_STARTS_AFTER_REDEPLOY
       :: op == DEFINE -> skip
#endif
       :: else -> evaluate()
       fi;
       check_engine();
#if defined(PARTIAL_LOSS) && !defined(BUG_ACKNOWLEDGE_BEFORE_THE_REPLICA)
       if :: op == DEFINE && snapped && !failed_over -> d_step { copy(old, e) } :: else fi;  /* WAIT */
#endif
       forget()
     }
  od
}

/* ---- invokers */

inline acquire(R, S, T, previous) {
  send(up, ACQUIRE, R, c[R].attempt, S, T, NO, 0, previous);
  c[R].phase = WAITING; c[R].on = NO; c[R].token = 0
}
inline finish(R) { assert(c[R].phase != DONE); c[R].phase = DONE; c[R].on = NO; c[R].token = 0; c[R].attempt = 0; c[R].at_least = 0 }
inline settle(R, A, S, T, how) { send(up, SETTLE, R, A, S, T, NO, 0, how) }
inline again(R, how) {
  settle(R, c[R].attempt, c[R].on, c[R].token, how);
  if
  :: c[R].attempt < MAX_ATTEMPTS -> c[R].attempt++; acquire(R, c[R].on, c[R].token, how)
  :: else -> assert(c[R].attempt < MAX_ATTEMPTS); finish(R)  /* nothing is refused for ever */
  fi
}
inline give_up(R) { send(up, CANCEL, R, c[R].attempt, NO, 0, NO, 0, 0); finish(R) }
#define settling(R, A, S, T) up??[SETTLE, eval(R), eval(A), eval(S), eval(T), _, _, _]
#define asking(R) up??[ACQUIRE, eval(R), _, _, _, _, _, _]

inline call(R) {
  if
  :: host_alive[host(c[R].on)] -> send(to_host[host(c[R].on)], CALL, R, c[R].attempt, c[R].on, c[R].token, NO, 0, 0)
  :: else -> send(to_invoker[inv(R)], ANSWER, R, c[R].attempt, c[R].on, c[R].token, NO, 0, NEVER)
  fi
}

inline on_grant() {
  if
  :: settling(req, att, sb, tok) -> skip                                                        /* told again */
  :: else ->
     if
     :: c[req].phase == HOLDING && c[req].attempt == att && c[req].on == sb && c[req].token == tok -> skip  /* told twice */
     :: c[req].phase == WAITING && c[req].attempt == att ->
        c[req].phase = HOLDING; c[req].on = sb; c[req].token = tok;
        call(req)
#ifndef BUG_KEEP_WHAT_NOBODY_WAITS_FOR
     :: else -> settle(req, att, sb, tok, REUSABLE)                                             /* given back */
#else
     :: else
#endif
     fi
  fi
}

/* its first and its second call */
#define mine(X, what) (me + X * NI < NR && c[(me + X * NI) % NR].phase == what)

proctype Invoker(byte me) {
end:
  do
  :: atomic {
       alive[me] && !paused[me] && len(to_invoker[me]) > 0 ->
       keep = 0;
       take(to_invoker[me]);
       if
       :: duplicates > 0 && op != ANSWER ->
          duplicates--; disturbed();
          send(to_invoker[me], op, req, att, sb, tok, sid, arg, arg2)
       :: skip
       fi;
       if
       :: request_losses > 0 && op != ANSWER -> request_losses--; disturbed()
       :: op == GRANT || op == HOLDS -> on_grant()
       :: op == FAILURE -> if :: c[req].phase == WAITING && c[req].attempt == att -> finish(req) :: else fi
       :: op == WAITS ->
          if :: c[req].phase == DONE || c[req].attempt != att -> send(up, CANCEL, req, att, NO, 0, NO, 0, 0) :: else fi
       :: op == NOTHING ->
          if :: c[req].phase == WAITING && c[req].attempt == att && !asking(req) -> acquire(req, NO, 0, REUSABLE) :: else fi
       :: op == ANSWER ->
          if
          :: c[req].phase == HOLDING && c[req].attempt == att && c[req].token == tok && c[req].on == sb ->
             if
             :: arg2 == REUSABLE -> settle(req, att, sb, tok, REUSABLE); finish(req)
             :: arg2 == RETIRED -> settle(req, att, sb, tok, RETIRED); finish(req)
#ifdef BUG_RELEASE_A_REFUSED_LEASE
             :: arg2 == REFUSED -> again(req, REUSABLE)
#else
             :: arg2 == REFUSED -> again(req, REFUSED)
#endif
             :: arg2 == NEVER -> again(req, RETIRED)
             fi
          :: else
          fi
       fi;
       forget()
     }
  :: atomic {
       alive[me] && !paused[me] && (mine(0, NEW) || mine(1, NEW)) ->
       if
       :: mine(0, NEW) -> req = me
       :: mine(1, NEW) -> req = me + NI
       fi;
       disturbed();
       c[req].attempt = 1; c[req].at_least = acknowledged;
       acquire(req, NO, 0, REUSABLE);
       forget()
     }
  :: atomic {  /* its caller gives up, or its deadline passes */
       alive[me] && !paused[me] && cancels > 0 && (mine(0, WAITING) || mine(1, WAITING)) ->
       if
       :: mine(0, WAITING) -> req = me
       :: mine(1, WAITING) -> req = me + NI
       fi;
       cancels--; disturbed();
       give_up(req);
       forget()
     }
#if BREAK > 0
  :: atomic {
       alive[me] && !paused[me] && breaks > 0 && c[me].phase == HOLDING ->
       breaks--; disturbed();
       settle(me, c[me].attempt, c[me].on, c[me].token, RETIRED);
       finish(me);
       forget()
     }
#endif
  od
}

/* ---- hosts */

#define myself(OP) send(to_host[me], OP, NO, 0, sb, 0, NO, 0, 0)

inline destroy(S) {
  at[S].state = ENDING; at[S].pending = 0;
  myself(REAPED)
}
inline retire_at_host(S) {
  if
  :: at[S].state == BUSY -> at[S].unwanted = 1
  :: at[S].state == WARM || at[S].state == STARTING -> destroy(S)
  :: else
  fi
}
inline clear(S) {
  at[S].state = 0; at[S].highest = 0; at[S].generation = 0; at[S].origin = NO; at[S].token = 0; at[S].owner = 0; at[S].attempt = 0;
  at[S].pending = 0; at[S].was_ready = 0; at[S].unwanted = 0; at[S].withdrawing = 0; at[S].told_again = 0
}
inline offer_returned(S, T, R, A) {
  at[S].generation++; at[S].pending = 1;
  send(up, OFFER, R, A, S, T, NO, at[S].generation, at[S].highest)
}
inline answer(how) {
  if
  :: alive[inv(at[sb].owner)] -> send(to_invoker[inv(at[sb].owner)], ANSWER, at[sb].owner, at[sb].attempt, sb, at[sb].token, NO, 0, how)
  :: else
  fi
}
byte over[NS];  /* ghost: up to here every lease has ended, its host says */
/* The engine holds lease t, r, a of s; has it ended here? A lease on its way may still arrive, unless it is suspect. */
inline answer_lease(suspect_) {
  if
#ifdef BUG_RETURN_A_LEASE_ON_ITS_WAY
  :: at[sb].state == WARM ->
#else
#ifdef BUG_KEEP_SUSPECTS
  :: at[sb].state == WARM && tok <= at[sb].highest ->
#else
  :: at[sb].state == WARM && (tok <= at[sb].highest || suspect_) ->
#endif
#endif
#ifndef BUG_FORGET_THE_FENCE
     if :: tok > at[sb].highest -> at[sb].highest = tok :: else fi;
#endif
     if :: tok > over[sb] -> over[sb] = tok :: else fi;
     offer_returned(sb, tok, req, att)
  :: else
  fi
}

inline do_start() {  /* n of version g */
  found = 0; xx = me * SPH;
  do
  :: xx < (me + 1) * SPH ->
     if
     :: at[xx].state != 0 && at[xx].origin == sid && !at[xx].was_ready ->
        found = 1;
#ifndef BUG_FORGET_A_START_WHILE_CLAIMING
        at[xx].told_again = (at[xx].state == CLAIMING);
#endif
        skip
     :: else
     fi;
     xx++
  :: else -> break
  od;
  if
  :: !found ->
     xx = me * SPH;
     do
     :: xx < (me + 1) * SPH && !(unused(xx)) -> xx++
     :: else -> break
     od;
     assert(xx < (me + 1) * SPH);  /* else SPH is too small */
     clear(xx); e.gone[xx] = 0; granted[xx] = 0; over[xx] = 0;
     at[xx].state = CLAIMING; at[xx].origin = sid; version_of[xx] = arg;
     send(up, CLAIM, NO, 0, xx, 0, sid, 0, 0)
  :: else
  fi
}
inline do_call() {
  if
  :: at[sb].state == 0 || at[sb].state == CLAIMING ->
     if :: alive[inv(req)] -> send(to_invoker[inv(req)], ANSWER, req, att, sb, tok, NO, 0, NEVER) :: else fi
  :: else ->
     xx = at[sb].highest;
     if :: tok > xx -> at[sb].highest = tok :: else fi;
     if
#ifdef BUG_ADMIT_AN_EQUAL_TOKEN
     :: at[sb].state == WARM && tok >= xx ->
#else
     :: at[sb].state == WARM && tok > xx ->
#endif
        assert(tok > over[sb]);                         /* I1: what was returned does not come back */
        assert(xx < tok);                               /* I1: only a greater token */
        assert(ran[req] == 0);                         /* I1: a call runs at most once */
        assert(version_of[sb] >= c[req].at_least);      /* I8 */
        ran[req]++;
        at[sb].state = BUSY; at[sb].token = tok; at[sb].owner = req; at[sb].attempt = att; at[sb].pending = 0;
        myself(ENDS)
     :: else ->
        assert(at[sb].state == STARTING || at[sb].state == ENDING || lost_memory || did_pause || crashed_invoker);  /* I1: one lease */
        if :: alive[inv(req)] -> send(to_invoker[inv(req)], ANSWER, req, att, sb, tok, NO, 0, REFUSED) :: else fi
     fi
  fi
}

inline do_held() {  /* the engine's record of s: g state, lease t, r, a, h suspect */
  if
  :: at[sb].state == 0 -> send(up, GONE, NO, 0, sb, 0, NO, 0, 0)
  :: at[sb].state == WARM || at[sb].state == BUSY ->
     if
     :: arg == RETIRING -> retire_at_host(sb)
     :: arg == LEASED -> answer_lease(arg2)
     :: else
     fi
  :: else
  fi
}

#define idle_here(X) (X < SPH && at[(me * SPH + X) % NS].state == WARM)
#define spare(X) (idle_here(X) && !at[(me * SPH + X) % NS].pending && !at[(me * SPH + X) % NS].withdrawing)

proctype Host(byte me) {
end:
  do
  :: atomic {
       host_alive[me] && len(to_host[me]) > 0 ->
       keep = 0;
       take(to_host[me]);
       if
       :: duplicates > 0 && op != CALL && op != READY && op != ENDS && op != REAPED ->
          duplicates--; disturbed();
          send(to_host[me], op, req, att, sb, tok, sid, arg, arg2)
       :: skip
       fi;
       if
       :: request_losses > 0 && (op == START || op == RETIRE || op == RECLAIM || op == HELD) -> request_losses--; disturbed()
       :: op == START -> do_start()
       :: op == CLAIMED ->
          if
          :: at[sb].state == CLAIMING && at[sb].origin == sid ->
             if
             :: arg -> at[sb].state = STARTING; at[sb].told_again = 0; myself(READY)
             :: !arg && at[sb].told_again ->  /* the refusal may be older than what it was told */
                at[sb].told_again = 0;
                send(up, CLAIM, NO, 0, sb, 0, sid, 0, 0)
             :: !arg && !at[sb].told_again -> clear(sb)
             fi
          :: else
          fi
       :: op == READY ->
          if
          :: at[sb].state == STARTING ->
             if
             :: at[sb].state = WARM; at[sb].was_ready = 1; at[sb].generation = 1; at[sb].pending = 1;
                send(up, OFFER, NO, 0, sb, 0, at[sb].origin, 1, 0);
                at[sb].origin = NO
             :: deaths > 0 -> deaths--; disturbed(); destroy(sb)
             fi
          :: else
          fi
       :: op == ENDS ->
          if
          :: at[sb].state == BUSY ->
             if
             :: !at[sb].unwanted ->
                answer(REUSABLE);
                at[sb].state = WARM; 
                if :: at[sb].token > over[sb] -> over[sb] = at[sb].token :: else fi;
                offer_returned(sb, at[sb].token, at[sb].owner, at[sb].attempt)
             :: at[sb].unwanted -> answer(RETIRED); destroy(sb)
             :: deaths > 0 -> deaths--; disturbed(); answer(RETIRED); destroy(sb)
             fi
          :: else
          fi
       :: op == REAPED ->
          if
          :: at[sb].was_ready -> send(up, GONE, NO, 0, sb, 0, NO, 0, 0)
          :: else -> send(up, FAILED, NO, 0, sb, 0, at[sb].origin, 0, 0)
          fi;
          clear(sb)
       :: op == OFFERED ->
          if
          :: at[sb].state == WARM || at[sb].state == BUSY ->
             if
             :: arg2 == 0 -> retire_at_host(sb)
             :: arg2 && at[sb].generation == arg -> at[sb].pending = 0
             :: else
             fi
          :: else
          fi
       :: op == TAKEN_BACK ->
          if
          :: at[sb].withdrawing ->
             at[sb].withdrawing = 0;
             assert(!arg || at[sb].state != BUSY || lost_memory);  /* I1: none is taken back under a call */
             if :: arg -> retire_at_host(sb) :: else fi
          :: else
          fi
       :: op == RETIRE -> if :: at[sb].state == 0 -> send(up, GONE, NO, 0, sb, 0, NO, 0, 0) :: else -> retire_at_host(sb) fi
       :: op == RECLAIM -> if :: at[sb].state == 0 -> send(up, GONE, NO, 0, sb, 0, NO, 0, 0) :: else -> answer_lease(1) fi
       :: op == HELD -> do_held()
       :: op == CALL -> do_call()
       fi;
       forget()
     }
  :: atomic {  /* an idle sandbox dies */
       host_alive[me] && deaths > 0 && (idle_here(0) || idle_here(1) || idle_here(2)) ->
       if
       :: idle_here(0) -> sb = me * SPH
       :: idle_here(1) -> sb = me * SPH + 1
       :: idle_here(2) -> sb = me * SPH + 2
       fi;
       deaths--; disturbed();
       destroy(sb);
       forget()
     }
#if WITHDRAW > 0
  :: atomic {  /* another function needs the room of an idle one */
       host_alive[me] && withdraws > 0 && (spare(0) || spare(1) || spare(2)) ->
       if
       :: spare(0) -> sb = me * SPH
       :: spare(1) -> sb = me * SPH + 1
       :: spare(2) -> sb = me * SPH + 2
       fi;
       withdraws--; disturbed();
       at[sb].withdrawing = 1;
       send(up, TAKE_BACK, NO, 0, sb, 0, NO, 0, 0);
       forget()
     }
#endif
  od
}

/* ---- timers and observers */

inline ask_repair(R) {
  send(up, REPAIR, R, (c[R].phase == WAITING && !asking(R) -> c[R].attempt : 0), NO, 0, NO, 0, 0)
}
inline announce(S) {
  send(up, ANNOUNCE, at[S].owner, at[S].attempt, S, at[S].token, at[S].state, at[S].generation + 16 * at[S].pending, at[S].highest)
}
#define known_of(R) (e.waits[R] != 0 || e.lease_of[R] != 0)

/* Timer x, if it would say anything; found tells. */
inline fire(X) {
  found = 0;
  if
#ifndef NO_REPAIR
  :: X < NR ->
     if
     :: alive[inv(X)] && !paused[inv(X)] && (known_of(X) || c[X].phase == WAITING) -> ask_repair(X); found = 1
     :: else
     fi
#ifndef BUG_NEVER_ANNOUNCE
  :: X >= NR && X < NR + NS ->
     yy = X - NR;
     if
     :: host_alive[host(yy)] && (at[yy].state != 0 || e.rec[yy].state != NONE || claimed(e, yy)) -> announce(yy); found = 1
     :: else
     fi
#endif
#endif
#ifndef BUG_BURY_ONCE
  :: X >= NR + NS && X < 2 * NR + NS ->  /* the dead are buried again while anything of theirs is known */
     yy = X - NR - NS;
     if
     :: (!alive[inv(yy)] || paused[inv(yy)]) && known_of(yy) -> send(up, PURGE, NO, 0, NO, 0, NO, inv(yy), 0); found = 1
     :: else
     fi
  :: X >= 2 * NR + NS && X < 2 * NR + 2 * NS ->
     yy = X - 2 * NR - NS;
     if
     :: !host_alive[host(yy)] && (e.rec[yy].state != NONE || claimed(e, yy)) ->
        send(up, TAKE_OVER, NO, 0, NO, 0, NO, host(yy), 0); found = 1
     :: else
     fi
#endif
  :: X == 2 * NR + 2 * NS ->
     if :: e.backoff -> send(up, BACKOFF_ENDS, NO, 0, NO, 0, NO, 0, 0); found = 1 :: else fi
  :: else
  fi
}
#define TIMERS (2 * NR + 2 * NS + 1)

#define quiet(I) (!alive[I] || paused[I] || len(to_invoker[I]) == 0)
#define AT_REST (len(up) == 0 && len(to_host[0]) == 0 && len(to_host[NH - 1]) == 0 && quiet(0) && quiet(NI - 1))
#define ANY_NEW (c[0].phase == NEW || c[1].phase == NEW || c[NR - 1].phase == NEW)
#define ANY_PAUSED (paused[0] || paused[NI - 1])

/* I2, I3, I10: everybody is answered, nothing is leased by nobody, engine and hosts have the same. */
inline see_whether_well() {
  well = 1;
  xx = 0;
  do
  :: xx < NR -> well = well && (c[xx].phase == DONE || c[xx].phase == NEW) && e.waits[xx] == 0; xx++
  :: else -> break
  od;
  xx = 0;
  do
  :: xx < NS ->
     well = well && !claimed(e, xx) &&
       ((at[xx].state == 0 && e.rec[xx].state == NONE) ||
        (at[xx].state == WARM && !at[xx].pending && e.rec[xx].state == IDLE && version_of[xx] == e.version));
     xx++
  :: else -> break
  od;
  skip
}

proctype Timers() {
end:
  do
  :: atomic {
       AT_REST && !rested ->
       d_step { see_whether_well() };
       if
       :: well -> rested = 1
       :: !well && rounds == ROUNDS -> assert(ANY_NEW || ANY_PAUSED); rested = 1
       :: !well && rounds < ROUNDS ->
          do
          :: fire(due); due++;
             if :: due == TIMERS -> due = 0; rounds++ :: else fi;
             if :: found || rounds == ROUNDS -> break :: else fi
          od
       fi;
       forget()
     }
  :: atomic {
       early > 0 && !rested ->
       early--;
       ww = 0;
       do :: ww + 1 < TIMERS -> ww++ :: break od;
       fire(ww);
       forget()
     }
  od
}

/* ---- trouble */

inline drop_from(ch, condition) {
  ii = 0; jj = len(ch);
  do
  :: ii < jj ->
     ch?op, req, att, sb, tok, sid, arg, arg2;
     if :: condition :: else -> ch!op, req, att, sb, tok, sid, arg, arg2 fi;
     ii++
  :: else -> break
  od;
  skip
}
#define of_invoker (req < NR && inv(req) == ww && (op == ACQUIRE || op == CANCEL || op == SETTLE || op == REPAIR))
#define of_host (sb < NS && host(sb) == 0 && (op == CLAIM || op == OFFER || op == FAILED || op == GONE || op == TAKE_BACK || op == ANNOUNCE))

/* All announce and repair at once; or, with CALM_RETURN, one after the other at their next turn. */
inline reconnected() {
#ifndef CALM_RETURN
  yy = 0;
#ifndef BUG_NEVER_ANNOUNCE
  do :: yy < NS -> if :: at[yy].state > CLAIMING && host_alive[host(yy)] -> announce(yy) :: else fi; yy++ :: else -> break od;
#endif
  yy = 0;
  do
  :: yy < NR -> if :: alive[inv(yy)] && c[yy].phase == WAITING -> ask_repair(yy) :: else fi; yy++
  :: else -> break
  od;
#endif
  skip
}

inline forget_replica() {
  xx = 0;
  do :: xx < NS -> old.rec[xx].state = 0; old.rec[xx].token = 0; old.rec[xx].owner = 0; old.rec[xx].attempt = 0; old.rec[xx].generation = 0;
        old.rec[xx].suspect = 0; old.gone[xx] = 0; xx++ :: else -> break od;
  xx = 0;
  do :: xx < NR -> old.lease_of[xx] = 0; old.waits[xx] = 0; xx++ :: else -> break od;
  xx = 0;
  do :: xx < NST -> old.start[xx] = 0; old.start_version[xx] = 0; xx++ :: else -> break od;
  old.version = 0; old.failed = 0; old.backoff = 0;
  skip
}

proctype Trouble() {
end:
  do
#ifdef CRASH_INVOKER
  :: atomic {
       !crashed_invoker ->
       crashed_invoker = 1; disturbed();
       if :: ww = 0 :: ww = 1 fi;
       d_step {
         alive[ww] = 0; paused[ww] = 0;
         xx = 0;
         do
         :: xx < NR -> if :: inv(xx) == ww && c[xx].phase != DONE -> finish(xx) :: else fi; xx++
         :: else -> break
         od;
         drop_from(to_invoker[ww], true)
       };
       if  /* what it had sent may arrive or not */
       :: skip
       :: d_step { drop_from(up, of_invoker) }
       fi;
       if
       :: skip
       :: d_step {
            drop_from(to_host[0], (op == CALL || op == START) && inv(req) == ww);
            drop_from(to_host[NH - 1], (op == CALL || op == START) && inv(req) == ww)
          }
       fi;
       send(up, PURGE, NO, 0, NO, 0, NO, ww, 0);
       forget()
     }
#endif
#ifdef CRASH_HOST
  :: atomic {
       !crashed_host ->
       crashed_host = 1; disturbed();
       d_step {
         host_alive[0] = 0; host_alive[1] = 1;
         ii = 0; jj = len(to_host[0]);
         do
         :: ii < jj ->
            to_host[0]?op, req, att, sb, tok, sid, arg, arg2;
            if
            :: op == CALL && alive[inv(req)] -> send(to_invoker[inv(req)], ANSWER, req, att, sb, tok, NO, 0, NEVER)
            :: else
            fi;
            ii++
         :: else -> break
         od;
         sb = 0;
         do
         :: sb < SPH -> if :: at[sb].state == BUSY -> answer(RETIRED) :: else fi; clear(sb); sb++
         :: else -> break
         od;
         skip
       };
       if
       :: skip
       :: d_step { drop_from(up, of_host) }
       fi;
       send(up, TAKE_OVER, NO, 0, NO, 0, NO, 0, 0);
       forget()
     }
#endif
#ifdef PAUSE_INVOKER
  :: atomic {
       !did_pause -> did_pause = 1; disturbed();
       paused[0] = 1;
       forget()
     }
  :: atomic {  /* an observer takes it for dead */
       paused[0] && !purged -> purged = 1; disturbed();
       send(up, PURGE, NO, 0, NO, 0, NO, 0, 0);
       forget()
     }
  :: atomic {
       paused[0] -> paused[0] = 0; disturbed();
       forget()
     }
#endif
#ifdef FLUSH
  :: atomic {
       !flushed -> flushed = 1; disturbed();
       d_step {
         ii = e.version;
         xx = 0;
         do :: xx < NS -> erase(xx); e.gone[xx] = 0; granted[xx] = 0; xx++ :: else -> break od;
         xx = 0;
         do :: xx < NST -> e.start[xx] = 0; e.start_version[xx] = 0; xx++ :: else -> break od;
         xx = 0;
         do :: xx < NR -> e.waits[xx] = 0; e.lease_of[xx] = 0; xx++ :: else -> break od;
         e.failed = 0; e.backoff = 0;
         reconnected()
       };
       forget()
     }
#endif
#ifdef PARTIAL_LOSS
  :: atomic {
       !snapped -> snapped = 1; d_step { copy(old, e) };
       forget()
     }
  :: atomic {
       snapped && !failed_over -> failed_over = 1; disturbed();
       d_step {
         copy(e, old);
         xx = 0;
         do :: xx < NS -> granted[xx] = 0; xx++ :: else -> break od;
         forget_replica();
         reconnected()
       };
       forget()
     }
#endif
#ifdef REDEPLOY
  :: atomic {
       !redeployed -> redeployed = 1; disturbed();
       send(up, DEFINE, NO, 0, NO, 0, NO, 2, 0);
       forget()
     }
#endif
#if !defined(CRASH_INVOKER) && !defined(CRASH_HOST) && !defined(PAUSE_INVOKER) && !defined(FLUSH) && \
    !defined(PARTIAL_LOSS) && !defined(REDEPLOY)
  :: false
#endif
  od
}

init {
  atomic {
    e.version = 1; acknowledged = 1;
    alive[0] = 1; alive[NI - 1] = 1;
    host_alive[0] = 1;
#ifdef TWO_HOSTS
    host_alive[1] = 1;
#endif
    xx = 0;
    do :: xx < NS -> at[xx].origin = NO; xx++ :: else -> break od;
    xx = 0;
    do :: xx < NR -> c[xx].on = NO; xx++ :: else -> break od;
    run Engine();
    run Invoker(0);
    run Invoker(1);
    run Host(0);
#if NH == 2
    run Host(1);
#endif
    run Timers();
    run Trouble()
  }
}
