"""What an InferenceService of KServe says and is to say. Pure.

KServe (0.19) with Knative serves one InferenceService from at most two revisions:

    latest      made of the spec as it is, so of `predictor.model.storageUri`
    rolled out  the last one that had all the traffic (`latestRolledoutRevision`)

`canaryTrafficPercent` P is the share of the latest; the rolled out one gets the rest. Its states,
with the champion v1 and the candidate v2, and what moves it from one to the next:

    state      storageUri  P       traffic          comes from
    resting    v1          none    v1 100           the beginning; settling; PointService
    staging    v2          0       v1 100           Scale(v2, n): the revision is not ready yet
    staged     v2          0       v1 100           its revision is ready
    splitting  v2          p       v1 100-p, v2 p   SetSplit
    full       v2          100     v2 100           SetSplit; now v2 is the rolled out one
    resting    v2          none    v2 100           PointService(v2)
    restoring  v1          0       v1 100           Scale(v2, 0) after the split went back to v1
    resting    v1          none    v1 100           its new revision is ready: settled

What KServe does, and what follows for us:

- Without P, and also with it while nothing was ever rolled out, the latest *ready* revision gets
  everything. So a URI is only ever written together with P = 0, never before something was rolled
  out, and P is only removed when the newest revision is ready: in `restoring`, before that, the
  latest ready one is the rejected candidate.
- Every label and annotation of an InferenceService is copied into the revision's template, so that
  writing one starts new pods. Roles are therefore not written at all. Our one annotation, `STAGED`,
  is written with each new URI, which makes a revision anyway, and says which arms there are.
- `status.observedGeneration` is that of the Knative Service below, not of the InferenceService:
  it proves nothing. A revision is of the present URI when it is not `after`, which was the latest
  when the URI was written, and nothing is written anew before such a revision was seen.
- After P = 100 KServe takes the candidate for the rolled out one. Going back takes it two passes:
  in the first, both entries of `traffic` name the candidate. So shares are summed by revision.
- In Standard (RawDeployment) mode P is ignored, and traffic follows the URI at once: refused.

What it cannot do at all, the policy's schema refuses: two candidates, parts of a percent, shadow.

    seen     what an InferenceService says, and which arms that is
    wishes   what may be written of it, and what is
    splits   SetSplit, and how it stands
    orders   Scale and PointService
"""

from __future__ import annotations

from controller.deploy.inference.orders import promote, restore, stage
from controller.deploy.inference.seen import STAGED, arms, serving
from controller.deploy.inference.splits import percent_patch, standing

__all__ = [
    "STAGED",
    "arms",
    "percent_patch",
    "promote",
    "restore",
    "serving",
    "stage",
    "standing",
]
