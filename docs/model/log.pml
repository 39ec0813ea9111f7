/* The log of events: transactions of several nodes that commit in any order, and a reader that resumes at a
 * cursor. README.md names the rules. Each macro BREAK_... removes one of them.
 *
 * A transaction gets its number when it first writes, and its events become visible when it commits. Positions in
 * the log are these numbers. A transaction is a group commit: it may change several uploads, and each of its
 * changes names the version of the upload that it was made from.
 */

#ifndef NODES
#define NODES 3
#endif
#define UPLOADS 2
#ifndef NUMBERS
#define NUMBERS 3       /* transactions that get a number */
#endif

#define FREE 0
#define OPEN 1
#define COMMITTED 2
#define ROLLED_BACK 3

byte next;                      /* the number of the next transaction */
byte state[NUMBERS];
byte event[NUMBERS * UPLOADS];  /* the sequence of the event of each upload in each transaction; 0: none */
byte version[UPLOADS];          /* of the row, as committed; also the sequence of its last event */
bit locked[UPLOADS];            /* the row */
byte number[NODES + 2];         /* of the open transaction of a node; NUMBERS: it has none */
bit table_lock[NODES + 1];      /* the open transaction has locked a table */

#define EVENT(x, u) event[(x) * UPLOADS + (u)]

inline get_number() {
  number[me] = next;
  state[next] = OPEN;
  next++
}

inline read_versions() {
  if
  :: wants_0 -> v_0 = version[0]
  :: else
  fi;
  if
  :: wants_1 -> v_1 = version[1]
  :: else
  fi
}

/* Writes a row and its event. If the version has changed, the answer does not contain the row. */
inline update(u, v, wanted, wrote) {
  if
  :: wanted ->
    d_step {
      !locked[u] ->
      if
      :: version[u] == v -> locked[u] = 1; EVENT(number[me], u) = v + 1; wrote = 1
#ifdef BREAK_EVENT_WITH_ROW
      :: else -> EVENT(number[me], u) = v + 1
#else
      :: else
#endif
      fi;
      wanted = 0; v = 0
    }
  :: else
  fi
}

inline end_transaction(is_committed) {
  d_step {
    if
    :: is_committed ->
      state[number[me]] = COMMITTED;
      if
      :: wrote_0 -> version[0]++
      :: else
      fi;
      if
      :: wrote_1 -> version[1]++
      :: else
      fi
    :: else ->
      state[number[me]] = ROLLED_BACK;
      EVENT(number[me], 0) = 0;
      EVENT(number[me], 1) = 0
    fi;
    if
    :: wrote_0 -> locked[0] = 0
    :: else
    fi;
    if
    :: wrote_1 -> locked[1] = 0
    :: else
    fi;
    number[me] = NUMBERS;
    table_lock[me] = 0;
    wrote_0 = 0; wrote_1 = 0
  }
}

proctype Node(byte me) {
  byte v_0, v_1;
  bit wants_0, wants_1, wrote_0, wrote_1;

end_idle:
  /* A batch: changes of one upload, or of both. */
  atomic {
    if
    :: next < NUMBERS -> wants_1 = 1
    :: next < NUMBERS -> wants_0 = 1; wants_1 = 1
    fi;
#ifndef BREAK_READ_BEFORE_NUMBER
    read_versions()
#endif
  };
  atomic {
    next < NUMBERS;
#ifndef BREAK_LOCK_BEFORE_NUMBER
    table_lock[me] = 1;
#endif
    get_number()
  };
#ifdef BREAK_LOCK_BEFORE_NUMBER
  table_lock[me] = 1;
#endif
#ifdef BREAK_READ_BEFORE_NUMBER
  atomic { read_versions() };
#endif
  /* Rows are changed in the order of their ids. */
  update(0, v_0, wants_0, wrote_0);
  update(1, v_1, wants_1, wrote_1);
  if
  :: end_transaction(1)
  :: end_transaction(0)
  fi;
  goto end_idle
}

/* A transaction of another database on the same server: it has a number, locks nothing here, and may never end. */
proctype Stranger() {
  byte x;
end_none:
  if
  :: d_step { next < NUMBERS -> x = next; state[x] = OPEN; next++ }
  fi;
end_open:
  state[x] == OPEN;
  state[x] = ROLLED_BACK
}

/* Lowers the horizon to the oldest open transaction that has locked a table. */
inline oldest_locked() {
  n = 1;
  do
  :: n <= NODES ->
    if
    :: table_lock[n] && number[n] < horizon -> horizon = number[n]
    :: else
    fi;
    n++
  :: else -> break
  od;
  n = 0
}

proctype Reader() {
  byte cursor, horizon, x, n;
  byte last[UPLOADS];           /* the sequence of the last event of each upload */

end_reading:
  if
  :: cursor == NUMBERS -> goto done
  :: cursor < NUMBERS && next > cursor
  fi;
  if
  /* One statement: everything before the oldest open transaction of its snapshot. */
  :: d_step {
#ifdef BREAK_HORIZON
      horizon = next
#else
      horizon = 0;
      do
      :: horizon < next && state[horizon] != OPEN -> horizon++
      :: else -> break
      od
#endif
    }
  /* Or, when transactions of other databases hold that back: first the next number, then the locks of open
     transactions. */
#ifdef BREAK_NEXT_BEFORE_LOCKS
  :: d_step { horizon = NUMBERS; oldest_locked() }
    d_step {
      if
      :: next < horizon -> horizon = next
      :: else
      fi
    }
#else
  :: horizon = next;
    d_step { oldest_locked() }
#endif
  fi;
  /* A later statement reads the events between the cursor and the horizon. */
  d_step {
    x = cursor;
    do
    :: x < horizon ->
      if
      :: state[x] == COMMITTED ->
        n = 0;
        do
        :: n < UPLOADS ->
          if
          :: EVENT(x, n) != 0 ->
            /* Safety: no event is skipped, none comes twice, and those of an upload come in order. */
            assert(EVENT(x, n) == last[n] + 1);
            last[n] = EVENT(x, n)
          :: else
          fi;
          n++
        :: else -> break
        od
      :: else
      fi;
      x++
    :: else -> break
    od;
    /* The state of what was read does not matter any more. */
    x = cursor;
    do
    :: x < horizon ->
      EVENT(x, 0) = 0; EVENT(x, 1) = 0;
      if
      :: state[x] == COMMITTED -> state[x] = ROLLED_BACK
      :: else
      fi;
      x++
    :: else -> break
    od;
    if
    :: horizon > cursor -> cursor = horizon
    :: else
    fi;
    horizon = 0; x = 0; n = 0
  };
  goto end_reading;
done:
  /* Safety: at the end of the log, everything that was committed has been read. */
  assert(last[0] == version[0] && last[1] == version[1])
}

init {
  byte n;
  atomic {
    n = 1;
    do
    :: n <= NODES -> number[n] = NUMBERS; run Node(n); n++
    :: else -> break
    od;
    run Stranger();
    run Reader()
  }
}
