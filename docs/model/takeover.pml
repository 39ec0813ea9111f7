/* Nodes that take over uploads from each other: leases, epochs, generations, and commits whose answer is lost.
 * README.md names the rules. Each macro BREAK_... removes one of them.
 *
 * A step of this model is one transaction of the database, one operation on a file, or one read. A node may pause
 * between two of its steps for any time: it is then frozen, cut off or dead, and becomes a zombie if it resumes
 * after a takeover. A node that never resumes was killed. Any node may take over any upload at any time, so
 * nothing here depends on a clock.
 */

#ifndef NODES
#define NODES 3
#endif
#ifndef UPLOADS
#define UPLOADS 2
#endif
#ifndef LENGTH
#define LENGTH 2        /* bytes of an upload */
#endif
#ifndef EPOCHS
#define EPOCHS 3        /* the first upload changes hands EPOCHS - 1 times */
#endif
#ifndef EPOCHS_2
#define EPOCHS_2 EPOCHS /* the same for the second upload */
#endif
#define MAX_EPOCH(u) ((u) == 0 -> EPOCHS : EPOCHS_2)

#define NOBODY 0

/* Changes of a row. */
#define BYTES 1         /* one more byte counts */
#define BEGIN 2         /* a new generation begins */
#define REPORT 3        /* a change that needs no lease, such as a report of a backend */
#define RELEASE 4       /* the holder gives its lease back to the database */

/* The row of an upload, as committed. */
typedef Row {
  byte holder;          /* NOBODY after a release */
  byte epoch;
  byte version;
  byte by;              /* the node that made this version, until it knows: with the version, the commit id */
  byte offset;
  byte generation;      /* the current one; generations are numbered by epochs */
  byte at[LENGTH];      /* the generation that holds each committed byte */
  byte tail;            /* not in the row: the node that wrote the byte behind the offset in the current generation */
  byte since;           /* the epoch since which every takeover was clean: its generation may be continued */
  bit reported
};

/* A transaction that has changed a row and holds its lock; others see the change when it commits. */
typedef Pending {
  byte node;            /* NOBODY: the row is not locked */
  byte kind;
  byte epoch;
  byte offset;
  byte generation
};

Row row[UPLOADS];
Pending pending[UPLOADS];
bit answered[NODES + 1];  /* the database has sent the answer to a commit */
bit left[NODES + 1];      /* the node has closed all its blobs and left */

#define UNLOCKED(u) (pending[u].node == NOBODY)

/* The last holder of an upload writes it no more. */
#define CLOSED(u) (row[u].holder == NOBODY || left[row[u].holder])

/* Safety: no node changes a byte that counts. */
#define UNCOUNTED(u, g, p) (!((p) < row[u].offset && row[u].at[p] == (g)))

#ifdef BREAK_EPOCH_IN_COMMIT
#define SAME_EPOCH true
#else
#define SAME_EPOCH (row[u].epoch == ke)
#endif

#ifdef BREAK_VERSION_IN_COMMIT
#define SAME_VERSION true
#else
#define SAME_VERSION (row[u].version == kv)
#endif

#ifdef BREAK_RELEASE_OF_OWN_LEASE
#define MAY_RELEASE true
#else
#define MAY_RELEASE (row[u].epoch == ke && row[u].holder == me)
#endif

#ifdef BREAK_COMMIT_ID
#define MADE_BY_ME true
#else
#define MADE_BY_ME (row[u].by == me)
#endif

/* The open transaction on a row commits. */
inline land() {
  if
  :: pending[x].kind == RELEASE ->
    row[x].holder = NOBODY
  :: else ->
    /* Safety: no two epochs commit. */
    assert(pending[x].epoch == row[x].epoch);
    /* Safety: no committed offset falls. */
    assert(pending[x].offset >= row[x].offset);
    if
    :: pending[x].offset > row[x].offset ->
      /* Safety: the bytes that begin to count are there, written by the node that commits them. */
      assert(row[x].tail == pending[x].node && row[x].generation == pending[x].generation);
      row[x].at[row[x].offset] = pending[x].generation;
      row[x].tail = 0
    :: else
    fi;
    row[x].offset = pending[x].offset;
    row[x].generation = pending[x].generation;
    row[x].by = pending[x].node;
    row[x].version++;
    if
    :: pending[x].kind == BEGIN -> row[x].tail = 0
    :: pending[x].kind == REPORT -> row[x].reported = 1
    :: else
    fi
  fi;
  answered[pending[x].node] = 1;
  unlock()
}

inline unlock() {
  pending[x].node = NOBODY;
  pending[x].kind = 0;
  pending[x].epoch = 0;
  pending[x].offset = 0;
  pending[x].generation = 0
}

proctype Database() {
  byte x;
end:
  do
  :: d_step { !UNLOCKED(0) -> x = 0; land(); x = 0 }
  :: d_step { !UNLOCKED(0) -> x = 0; unlock(); x = 0 }
#if UPLOADS > 1
  :: d_step { !UNLOCKED(1) -> x = 1; land(); x = 0 }
  :: d_step { !UNLOCKED(1) -> x = 1; unlock(); x = 0 }
#endif
  od
}

inline read_row() {
  kv = row[u].version;
  ke = row[u].epoch;
  ko = row[u].offset;
  kg = row[u].generation;
  ks = row[u].since
}

/* The epoch is raised in the row, so this waits for the transaction that has it locked. */
inline take(is_clean) {
  row[u].holder = me;
#ifndef BREAK_EPOCH_RAISED
  row[u].epoch++;
#endif
  row[u].since = (is_clean -> row[u].since : row[u].epoch)
}

/* The node knows the outcome, so the commit id is not needed any more. */
inline known() {
  answered[me] = 0;
  if
  :: row[u].by == me -> row[u].by = 0
  :: else
  fi
}

inline forget() {
  answered[me] = 0; u = 0; kv = 0; ke = 0; ko = 0; kg = 0; ks = 0; kind = 0; wrote = 0
}

/* Opening a blob drops everything behind the offset that the node knows. */
inline truncate() {
  p = ko;
  do
  :: p < LENGTH -> assert(UNCOUNTED(u, kg, p)); p++
  :: else -> break
  od;
  p = 0;
  if
  :: row[u].generation == kg -> row[u].tail = 0
  :: else
  fi
}

proctype Node(byte me) {
  byte u, kv, ke, ko, kg, ks;   /* the upload, and what the node knows of its row */
  byte kind;                    /* the change that is being committed */
  bit wrote;                    /* a byte was written behind ko */
  byte p;

end_idle:
  /* A request arrives for one of the uploads, and the node reads the row. */
  atomic {
    forget();
    if
    :: u = 0
#if UPLOADS > 1
    :: u = 1
#endif
    fi;
    if
    :: row[u].offset < LENGTH && row[u].holder == me -> read_row(); goto opening
    :: row[u].offset < LENGTH && row[u].holder != me && row[u].epoch < MAX_EPOCH(u) -> read_row(); goto taking
#ifndef NO_REPORTS
    :: me == NODES && u == 0 && !row[u].reported -> read_row(); kind = REPORT; goto sending
#endif
    /* The node stops, with all its blobs closed. Only of one that holds an upload does this matter. */
    :: row[u].holder == me -> forget(); left[me] = 1; goto gone
    fi
  };

taking:
  atomic {
    UNLOCKED(u);
    if
    :: row[u].holder == me || row[u].epoch == MAX_EPOCH(u) -> goto end_idle
    /* The holder has released the lease or left, and no node writes the generation any more. */
    :: CLOSED(u) && row[u].epoch < MAX_EPOCH(u) -> take(1)
    /* The holder counts as dead, or does not answer. It may still be writing. */
    :: !CLOSED(u) && row[u].holder != me && row[u].epoch < MAX_EPOCH(u) ->
#ifdef BREAK_GENERATION
      take(1)
#else
      take(0)
#endif
    fi;
    ke = row[u].epoch;
    ks = row[u].since
  };
#ifndef BREAK_READ_AFTER_TAKEOVER
  /* The previous holder may have committed until it lost the lease. */
  atomic {
    p = ke;
    read_row();
#ifndef BREAK_LEASE_AFTER_TAKEOVER
    /* And another node may have taken the upload since. */
    if
    :: ke != p -> p = 0; goto end_idle
    :: else
    fi;
#endif
    p = 0
  };
#endif

opening:
  if
  :: kg != ks ->
#ifdef BREAK_GENERATION_RECORDED
    kg = ks
#else
    kind = BEGIN; goto sending
#endif
  :: else
  fi;
opened:
  atomic { truncate() };

writing:
  if
  /* A byte arrives. */
  :: d_step {
      ko < LENGTH && !wrote ->
      assert(UNCOUNTED(u, kg, ko));
      /* Safety: the record of a live epoch names each blob that has bytes. */
      assert(row[u].epoch != ke || row[u].generation == kg);
      if
      :: row[u].generation == kg -> row[u].tail = me
      :: else
      fi;
      wrote = 1
    }
    goto writing
#ifdef BREAK_BYTES_FIRST
  :: ko < LENGTH -> kind = BYTES; goto sending
#else
  :: wrote -> kind = BYTES; goto sending
#endif
  /* Another node requests the upload. */
  :: kind = RELEASE; goto sending
#ifdef BREAK_HEAD_READS_ROW
  /* Safety: no offset is reported below one that was reported before. */
  :: d_step { assert(ko >= row[u].offset) } goto writing
#endif
#ifdef BREAK_LEAVE_ENDS_WRITERS
  :: left[me] = 1; goto writing
#endif
  /* The client is gone, or the upload is full. */
  :: goto end_idle
  fi;

sending:
  atomic {
    UNLOCKED(u);
    if
    :: kind == RELEASE && MAY_RELEASE
    :: kind != RELEASE && SAME_EPOCH && SAME_VERSION
    /* Superseded: nothing is changed. */
    :: else -> goto end_idle
    fi;
    pending[u].node = me;
    pending[u].kind = kind;
    if
    :: kind != RELEASE ->
      pending[u].epoch = ke;
      pending[u].offset = ko + (kind == BYTES);
      if
      :: kind == BEGIN -> pending[u].generation = ks
      :: else -> pending[u].generation = kg
      fi
    :: else
    fi;
    answered[me] = 0
  };
#ifdef BREAK_YIELD_ENDS_WRITER
  if
  :: kind == RELEASE -> goto writing
  :: else
  fi;
#endif
  if
  :: atomic { answered[me] -> known(); goto done }
#ifdef BREAK_RELEASE_IS_FINAL
  :: kind == RELEASE -> goto writing
#endif
  /* The connection breaks before the answer arrives. What became of the commit is read from the row. */
  :: atomic {
#ifndef BREAK_DECIDED_BEFORE_READ
      /* The read locks the row: it waits until the transaction has ended. */
      pending[u].node != me ->
#endif
      if
      :: kind == RELEASE -> goto end_idle
      :: kind != RELEASE && row[u].epoch == ke && row[u].version == kv + 1 && MADE_BY_ME -> known(); goto done
      /* It was not made: the node repeats it, or ends the writer. */
      :: kind != RELEASE && row[u].epoch == ke && row[u].version == kv -> goto sending
      :: kind != RELEASE && row[u].epoch == ke && row[u].version == kv -> goto end_idle
      :: else -> known(); goto end_idle
      fi
    }
  fi;
done:
  atomic {
    if
    :: kind == BYTES ->
      ko++; wrote = 0;
      /* Safety: what is acknowledged to a client is committed. */
      assert(row[u].offset >= ko)
    :: kind == BEGIN -> kg = ks
    :: else -> goto end_idle
    fi;
    kv++;
    if
    :: kind == BEGIN -> kind = 0; goto opened
    :: else -> kind = 0; goto writing
    fi
  };

gone:
  skip
}

init {
  byte x;
  d_step {
    /* Each upload was created by another node, which holds it. */
    x = 0;
    do
    :: x < UPLOADS ->
      row[x].holder = x + 1;
      row[x].epoch = 1;
      row[x].generation = 1;
      row[x].since = 1;
      x++
    :: else -> break
    od;
    x = 0
  };
  atomic {
    run Database();
    x = 1;
    do
    :: x <= NODES -> run Node(x); x++
    :: else -> break
    od
  }
}
