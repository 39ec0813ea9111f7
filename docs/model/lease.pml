/* The heartbeat of a node: when the database counts it as dead, and when it stops reporting new offsets.
 * README.md names the rules. Each macro BREAK_... removes one of them.
 *
 * Time passes in ticks of a second. Between two steps of the node any number of ticks may pass: it may be frozen,
 * and its messages may be slow. Nodes do not affect each other here, so one is enough.
 */

#ifndef TTL
#define TTL 5           /* the time for which a renewed node counts as alive */
#endif
#ifndef FENCE
#define FENCE 3         /* the age of the last renewal at which the node reports nothing new */
#endif
#define LATE 9          /* no counter needs to go further */

#define SENT 1
#define RENEWED 2
#define REJECTED 3

byte left = TTL;        /* time until the node counts as dead, by the clock of the database */
byte age;               /* time since the last renewal, by the monotonic clock of the node */
byte sent_age;          /* time since the renewal under way was sent */
byte message;           /* the renewal under way */
bit taken;              /* another node has taken over an upload of this one */

active proctype Time() {
end:
  do
  :: d_step {
      age < LATE || left > 0 || sent_age < LATE ->
      left = (left > 0 -> left - 1 : 0);
      age = (age < LATE -> age + 1 : LATE);
      sent_age = (message == 0 -> 0 : (sent_age < LATE -> sent_age + 1 : LATE))
    }
  od
}

active proctype Database() {
end:
  do
  :: d_step {
      message == SENT ->
      if
#ifdef BREAK_DEAD_STAYS_DEAD
      :: left = TTL; message = RENEWED
#else
      :: left > 0 -> left = TTL; message = RENEWED
      :: left == 0 -> message = REJECTED
#endif
      fi
    }
  od
}

active proctype Successor() {
end:
  /* Takes over from a dead node. */
  d_step { left == 0 -> taken = 1 }
}

active proctype Node() {
end:
  do
  :: d_step { message == 0 -> message = SENT; sent_age = 0 }
  /* The answer, or the end of the wait for it: the message may be repeated. */
  :: d_step {
      message == RENEWED ->
#ifdef BREAK_AGE_FROM_SENDING
      age = 0;
#else
      age = sent_age;
#endif
      message = 0
    }
  :: d_step { message == RENEWED -> message = 0 }
  :: d_step { message == REJECTED -> message = 0 } break
  :: d_step {
#ifndef BREAK_FENCE
      age < FENCE ->
#endif
      /* Safety: a node that reports a new offset counts as alive, and nothing was taken over from it. */
      assert(left > 0 && !taken)
    }
  od
}
