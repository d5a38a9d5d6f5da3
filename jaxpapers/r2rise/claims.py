"""What R2RISE's paper claims."""

from jaxpapers.engine.claims import Above, Below, Claim, Run

_BREAKOUT = Run('breakout10')

CLAIMS = (
  Claim(
    'frames differ',
    'The frames of a demonstration are not equally important: a test of equality rejects (corridor).',
    'first question of the paper',
    lambda r: r['bc']['map']['equality_p'],
    Below(0.05),
    'p-value',
    picture='map_bc',
  ),
  Claim(
    'the map finds the frames that decide',
    "Behavioural cloning's map ranks the planted frames above the others (corridor).",
    'meaning of the map; here with planted truth',
    lambda r: r['bc']['map']['auc'],
    Above(0.75),
    'AUC',
    picture='map_bc',
  ),
  Claim(
    'for an adversarial learner too',
    "GAIL's map ranks the planted frames above the others (corridor).",
    'the paper explains BC, BCO and GAIL',
    lambda r: r['gail']['map']['auc'],
    Above(0.6),
    'AUC',
    picture='map_gail',
  ),
  Claim(
    'top frames teach better',
    'Learners trained on the top half of the cells return more than on a random half (brick-breaker).',
    'retraining experiment; here on a small brick-breaker',
    lambda r: r['bc']['curve']['top'] - r['bc']['curve']['random'],
    Above(0.0),
    'points of the game',
    run=_BREAKOUT,
    picture='curves',
  ),
  Claim(
    'bottom frames teach worse',
    'Learners trained on the bottom half of the cells return less than on a random half (brick-breaker).',
    'retraining experiment; here on a small brick-breaker',
    lambda r: r['bc']['curve']['bottom'] - r['bc']['curve']['random'],
    Below(0.0),
    'points of the game',
    run=_BREAKOUT,
    picture='curves',
  ),
)
