"""What the flags mean: the mistake, who makes it, and the line of code to look at."""

from __future__ import annotations

from typing import NamedTuple


class Flag(NamedTuple):
    """A difference by its name.

    Attributes:
        meaning: what is done, by whom, and what should be done.
        line: ends the sentence "the line in your code to look at is the one that …".
    """

    meaning: str
    line: str


FLAGS = {
    "AmsgradAfterCorrection": Flag(
        "The maximum is taken of bias-corrected averages (optax). It is taken before correction; the two part as "
        "soon as gradients shrink.",
        "takes the maximum: let it compare the averages as they are, and correct what it keeps",
    ),
    "AmsgradIgnored": Flag(
        "The amsgrad option is accepted and does nothing (bitsandbytes' kernels).",
        "should keep the maximum of the averages of squares, if amsgrad is set",
    ),
    "AveragesFromZero": Flag(
        "The averages begin at zero (TensorFlow Addons: that of gradients). They begin at what is given.",
        "makes the averages: fill them with what they begin at",
    ),
    "AveragingTooEarly": Flag(
        "The average follows from the first step on. Up to step t0 + 1 it is a copy of the parameter.",
        "computes mu: 1 / max(1, k - t0)",
    ),
    "BetaComplemented": Flag(
        "A setting that says how much is kept says how much is new: beta where 1 - beta belongs, and the other way "
        "round.",
        "averages: beta weighs what was there, 1 - beta what is new",
    ),
    "BetaOfDifferenceComplemented": Flag(
        "1 - beta2 stands where beta2 belongs: at the difference inside the square, and in the step of its "
        "average (optax).",
        "weighs the difference of gradients: by beta2, where betas are near 1",
    ),
    "BetasSwapped": Flag(
        "The two betas are exchanged. The first is that of the average of gradients.",
        "reads the betas: the first for gradients, the second for their squares",
    ),
    "CenteredIgnored": Flag(
        "The centered option is accepted and does nothing: the square of the average gradient is not subtracted.",
        "should subtract the square of the average gradient, if centered is set",
    ),
    "ChangeIgnored": Flag(
        "A setting that is changed on the way does nothing: the optimizer keeps what it was made with. It counts "
        "from the next step on.",
        "reads the settings: read them in every step",
    ),
    "ChangeLate": Flag(
        "A setting that is changed on the way counts one step late. It counts in the step that follows.",
        "reads the settings: read them before the step, not after it",
    ),
    "ClipFromThisStep": Flag(
        "The bound of step k is k ** clip_exp (pytorch-optimizer). It is (k - 1) ** clip_exp.",
        "computes the bound: the first step that moves anything has the bound 1",
    ),
    "ClipIgnored": Flag(
        "The normalized gradient is not bounded. It is, by a bound that grows with the steps.",
        "should bound the normalized gradient, before it is averaged",
    ),
    "CodesDown": Flag(
        "A code is that of the last number of the table below the average. It is that of the nearest one.",
        "codes the averages: by the nearest number of the table",
    ),
    "CodesIgnored": Flag(
        "No average is kept in 8 bits. Those of 4096 elements and more are, in whole blocks.",
        "keeps the averages: in 8 bits, where there are 4096 elements or more",
    ),
    "ComplexModulus": Flag(
        "The moments of a complex parameter are made of |g|. They are made of its real and imaginary parts, each "
        "by itself.",
        "squares the gradient: square real and imaginary parts, each by itself",
    ),
    "CorrectionAccumulated": Flag(
        "The bias correction is a running product of betas. It is a power of the present beta: both differ in the "
        "last bits, and widely once beta changes.",
        "multiplies a running product by a beta: take the power of the beta",
    ),
    "CoupledDecay": Flag(
        "The decay is added to the gradient, so that the moments see it. Here it shrinks the parameter alone "
        "(FusedAdam under the name of Adam; Lion in bitsandbytes).",
        "adds weight_decay * p to the gradient: multiply p by 1 - lr * weight_decay",
    ),
    "DampeningIgnored": Flag(
        "The dampening is accepted and does nothing.",
        "adds the gradient to the buffer: it enters times 1 - dampening",
    ),
    "DecayAfterMomentum": Flag(
        "The decay is added after the momentum (an option of Apex). It belongs to the gradient that enters the buffer.",
        "adds the decay: add it to the gradient, before the buffer",
    ),
    "DecayAfterUpdate": Flag(
        "The parameter shrinks after the update (bitsandbytes' CUDA kernels), and so does the update.",
        "applies the decay: it stands before the update",
    ),
    "DecayIgnored": Flag(
        "The weight decay is accepted and does nothing.",
        "should apply the weight decay",
    ),
    "DecayInFirstStep": Flag(
        "The parameter shrinks in the first step too (pytorch-optimizer), which should move nothing.",
        "applies the decay: leave the parameter as it is in the first step",
    ),
    "DecayInStep": Flag(
        "The decay is a part of the step, lr * (update + weight_decay * p) (Apex, llm.c, tinygrad, optax): the "
        "same sum, rounded in another order.",
        "adds weight_decay * p to the step: multiply p by 1 - lr * weight_decay before it",
    ),
    "DecayWithoutGradient": Flag(
        "A parameter without a gradient shrinks all the same. It stays as it is.",
        "applies the decay: skip parameters without a gradient",
    ),
    "DecayWithoutLr": Flag(
        "The parameter shrinks by weight_decay, not by lr * weight_decay (Chainer).",
        "applies the decay: it is lr * weight_decay",
    ),
    "DecoupledDecay": Flag(
        "The decay shrinks the parameter (Keras, for every optimizer). Here it is added to the gradient.",
        "applies the decay to p: add weight_decay * p to the gradient",
    ),
    "DifferenceInFirstStep": Flag(
        "The first difference of gradients is the first gradient: the one before it counts as zero. It is zero.",
        "makes the previous gradient: let it be the first one in the first step",
    ),
    "DuplicatesOverwritten": Flag(
        "Of several entries of one row in a sparse gradient only the last counts. Their sum counts.",
        "writes sparse entries: sum those of one row first",
    ),
    "EpsAddedToEstimates": Flag(
        "eps is added to the average of estimates (SophiaG). It bounds the average from below.",
        "divides by the average of estimates: by the larger one of it and eps",
    ),
    "EpsAddedToNorm": Flag(
        "The norm is divided by as norm + eps (Keras). eps bounds it from below.",
        "divides by the norm: by the larger of norm and eps",
    ),
    "EpsAddedToSquares": Flag(
        "eps[0] is added to the squares, as in the paper. torch bounds the averages from below by it.",
        "squares the gradient: eps[0] bounds the average from below",
    ),
    "EpsIgnored": Flag(
        "eps is accepted and does nothing.",
        "takes the square root: add eps to it",
    ),
    "EpsInsideCorrectedRoot": Flag(
        "sqrt(v / correction + eps) in place of sqrt(v / correction) + eps (optax' eps_root).",
        "takes the square root: add eps outside of it",
    ),
    "EpsInsideRoot": Flag(
        "sqrt(v + eps) in place of sqrt(v) + eps (optax's and Keras' RMSprop and Adagrad).",
        "takes the square root: add eps outside of it",
    ),
    "EpsMissingAbove": Flag(
        "The root above has no eps, so that the first step is zero and all after it.",
        "takes the root of acc_delta: add eps inside of it",
    ),
    "EpsNotAccumulated": Flag(
        "eps is not added to the average of squared differences that is kept. It is added in every step, so "
        "that it adds up.",
        "updates the average of squared differences: add eps to what is kept",
    ),
    "EpsOutsideMaximum": Flag(
        "max(beta2 * u, |g|) + eps (Keras). eps stands inside the maximum, beside |g|.",
        "takes the maximum: add eps to |g| inside of it",
    ),
    "EpsOutsideRoot": Flag(
        "sqrt(v) + eps in place of sqrt(v + eps).",
        "takes the square roots: add eps inside of them",
    ),
    "EpsScaled": Flag(
        "eps is added after bias correction, as dense Adam does. SparseAdam, RAdam and AdaBelief where it is rectified "
        "add it to the uncorrected root.",
        "adds eps: add it to the root of the average before that is corrected",
    ),
    "EpsSubtracted": Flag(
        "eps is taken away inside the root of the centered variance (TensorFlow.js).",
        "takes the root of the variance: add eps outside of it",
    ),
    "EpsUnscaled": Flag(
        'Bias correction multiplies lr and eps is added to the uncorrected root (the "epsilon hat" of TensorFlow, '
        "Keras, scikit-learn, ONNX), so that eps weighs more in the first steps.",
        "adds eps: divide the root by sqrt(1 - beta2**k) first, and lr by 1 - beta1**k alone",
    ),
    "EtaInDouble": Flag(
        "eta is kept in double. torch keeps it in its default dtype, float32, also for float64 parameters.",
        "keeps eta: round it to float32",
    ),
    "EtaOfThisStep": Flag(
        "The step uses the eta that belongs to it. It uses the one computed at the end of the step before, the "
        "first uses lr.",
        "computes eta: compute it after the update, for the next step",
    ),
    "FirstMomentUncorrected": Flag(
        "The average of gradients is not corrected for its beginning at zero; that of squares is.",
        "computes the step size: divide lr by 1 - beta1**k",
    ),
    "FirstStepDampened": Flag(
        "The first gradient enters the buffer times 1 - dampening (MLX). It enters whole.",
        "begins the buffer: with the first gradient as it is",
    ),
    "FusedMultiplyAdd": Flag(
        "x + c * y is contracted into one rounding (compilers, CUDA by default, torch on AVX2 and AVX-512). Each "
        "operation is rounded by itself.",
        "lets the compiler contract: -ffp-contract=off, -fmad=false",
    ),
    "GradientKeptAfterTurn": Flag(
        "After the gradient has changed sign it is remembered. It is remembered as zero, so that the next step is "
        "neither longer nor shorter.",
        "remembers the gradient: as zero where its sign has turned",
    ),
    "InitialAccumulatorIgnored": Flag(
        "The accumulator begins at zero, or at a value of the library's own (optax: 0.1), not at the one given.",
        "begins the sum: with initial_accumulator_value",
    ),
    "InitialSquaresOne": Flag(
        "The average of squares begins at one (timm's RMSpropTF). It begins at zero.",
        "begins the average of squares: with zeros",
    ),
    "IterationUnrounded": Flag(
        "The iteration runs in the dtype of the parameter (Keras). Every matrix in it is rounded to bfloat16.",
        "iterates: round every matrix to bfloat16",
    ),
    "LerpOneSided": Flag(
        "m + c * (g - m) is used for every c. From one half on it is g - (g - m) * (1 - c), which rounds differently.",
        "averages: from a weight of one half on compute g - (g - m) * (1 - c)",
    ),
    "LrAfterDivision": Flag(
        "lr multiplies the quotient. It multiplies the numerator, which rounds differently.",
        "divides: multiply the numerator by lr first",
    ),
    "LrDecayFromFirstStep": Flag(
        "The first step is divided by 1 + lr_decay (step counted from 1 in ONNX' formula). It has the full lr.",
        "computes the learning rate: lr / (1 + (k - 1) * lr_decay)",
    ),
    "LrIgnored": Flag(
        "There is no lr (Chainer's Adadelta) or it does nothing.",
        "should multiply the step by lr",
    ),
    "LrInsideAverage": Flag(
        "The average of squared steps contains lr.",
        "averages the squared steps: of steps without lr",
    ),
    "LrInsideMomentum": Flag(
        "lr is multiplied in before the momentum (TensorFlow, Keras, optax' RMSprop): the same until lr changes, "
        "then not.",
        "fills the buffer: multiply by lr when the buffer is used",
    ),
    "LrScaled": Flag(
        "The learning rate is multiplied by a factor that does not belong there.",
        "uses the learning rate: as it is given",
    ),
    "LrUnbounded": Flag(
        "lr is taken as it is. It is bounded by 1 / sqrt(k).",
        "computes the step size: min(lr, 1 / sqrt(k))",
    ),
    "MaximizeAfterDecay": Flag(
        "The sign is turned after the decay was added, so that weights grow. The gradient alone is turned.",
        "turns the sign: of the gradient, before the decay is added",
    ),
    "MaximizeIgnored": Flag(
        "The maximize option is accepted and does nothing.",
        "should turn the gradient round, if maximize is set",
    ),
    "MaximumKept": Flag(
        "The maximum does not decay. It is multiplied by beta2 each step.",
        "takes the maximum: of beta2 * u and |g| + eps",
    ),
    "MixKept": Flag(
        "The mix that gives the sign is kept as the average. The average is made of the old one and the "
        "gradient by the second beta.",
        "updates the average: by the second beta, of what it was before the sign was taken",
    ),
    "MomentsInBfloat16": Flag(
        "The state is kept in bfloat16. It has the dtype of the parameter.",
        "makes the state: like the parameter",
    ),
    "MomentsInFloat32": Flag(
        "The state of a float64 parameter is kept in float32. It has the dtype of the parameter.",
        "makes the state: like the parameter",
    ),
    "MomentumAveraged": Flag(
        "buf = momentum * buf + (1 - momentum) * g. The gradient enters whole, or times 1 - dampening.",
        "fills the buffer: momentum * buf + (1 - dampening) * g",
    ),
    "MomentumDecayIgnored": Flag(
        "The momentum has no schedule (optax) or one of the library's own (Keras: momentum_decay = 1).",
        "computes mu: beta1 * (1 - 0.5 * 0.96**(k * momentum_decay))",
    ),
    "MomentumNotAveraged": Flag(
        "buf = momentum * buf + g (Keras, torch's documentation). torch's code averages: lerp(buf, g, 1 - momentum).",
        "fills the buffer: lerp(buf, g, 1 - momentum)",
    ),
    "MovedInFirstStep": Flag(
        "The first step moves the parameter. It only makes the averages that the others need: that of squares, or "
        "the matrices and their bases.",
        "takes the first step: let it keep what it makes of the gradient and do nothing else",
    ),
    "MovedWithoutGradient": Flag(
        "A parameter without a gradient is moved by its momentum or its decay, or its state changes. It stays as "
        "it is.",
        "goes through the parameters: skip those without a gradient",
    ),
    "MuProductInDouble": Flag(
        "The product of momenta is kept in double. torch keeps it in its default dtype, float32, also for float64 "
        "parameters.",
        "keeps mu_product: round it to float32",
    ),
    "MuProductShared": Flag(
        "One product of momenta is kept for all parameters, or multiplied once per parameter (MXNet). Each has "
        "its own.",
        "keeps mu_product: one for each parameter",
    ),
    "NanDropped": Flag(
        "NaN is lost in a maximum or a comparison (C's fmax, CUDA's max.f32). It stays.",
        "compares: a NaN on either side must stay",
    ),
    "NesterovAppliedTwice": Flag(
        "The look-ahead uses the buffer that already holds it (Chainer's NesterovAG).",
        "looks ahead: g + momentum * buf",
    ),
    "NesterovIgnored": Flag(
        "The nesterov option is accepted and does nothing, or cannot be switched off.",
        "should look ahead, if nesterov is set, and only then",
    ),
    "NoBiasCorrection": Flag(
        "The averages are not corrected for their beginning at zero (MLX by default; MLX' Adamax).",
        "computes the step: divide the averages by 1 - beta**k",
    ),
    "NotFactored": Flag(
        "Matrices keep the average of all squares. They keep a row and a column.",
        "makes the state of a matrix: one row and one column",
    ),
    "OldSquares": Flag(
        "The step is divided by the average of squares before this gradient entered it (TensorFlow.js).",
        "divides by the average of squares: by the new one",
    ),
    "RatioIgnored": Flag(
        "lr is the same for every shape. It grows with the ratio of the sides, or with the larger one.",
        "computes the step size: it depends on the shape",
    ),
    "RectifiedTooEarly": Flag(
        "The rectification begins at another step: a counter one ahead (Thinc), or another bound than rho > 5 (where "
        "rho > 4 in torch-optimizer's AdaBelief, which does not correct the steps before that).",
        "decides whether to rectify: where rho > 5",
    ),
    "RoundedWhenStored": Flag(
        "16-bit numbers are computed in float32 and rounded when they are stored (kernels, refoptim's too). Each "
        "operation is rounded.",
        "computes with 16-bit numbers: round after each operation, or promise CLOSE",
    ),
    "ScalarsInFloat32": Flag(
        "What a step is made of besides arrays is computed in float32 (JAX, ONNX). It is computed in double.",
        "computes powers and quotients of hyperparameters: in double",
    ),
    "ScaleUnfloored": Flag(
        "The scale of a block is its largest magnitude, however small. It is at least 1e-12.",
        "computes the scale of a block: let it be at least 1e-12",
    ),
    "SecondMomentUncorrected": Flag(
        "The average of squares is not corrected for its beginning at zero; that of gradients is.",
        "takes the square root: divide it by sqrt(1 - beta2**k)",
    ),
    "SettingDiffers": Flag(
        "A setting has a value of its own, whatever is given.",
        "reads the setting: use what is given",
    ),
    "SettingIgnored": Flag(
        "A setting is accepted and does nothing: a default, torch's or another library's, stands in its place.",
        "reads the setting: use what is given",
    ),
    "SettingScaled": Flag(
        "A setting is multiplied by a factor that does not belong there.",
        "uses the setting: as it is given",
    ),
    "SignOfAverage": Flag(
        "The sign is that of the average that is kept (Tiger, Signum). It is that of a mix of its own, of the "
        "old average and the gradient by the first beta.",
        "takes the sign: mix the old average and the gradient by the first beta for it",
    ),
    "SignOfNan": Flag(
        "The sign of NaN is NaN (NumPy). It is +0 (torch), so that NaN leaves the step size alone.",
        "takes the sign: +0 of NaN",
    ),
    "SignOfZeroLost": Flag(
        "-0 becomes +0, or the other way round. They are two results.",
        "adds a zero, or compares with one: -0 must stay",
    ),
    "SignedSquares": Flag(
        "The average of squares is coded by the signed table, half of which it cannot use. It has one of its own.",
        "codes the average of squares: by the table without signs",
    ),
    "SmallCoded": Flag(
        "Averages of fewer than 4096 elements are kept in 8 bits too. They are kept as they are.",
        "chooses what is kept in 8 bits: nothing with fewer than 4096 elements",
    ),
    "SquaresOfAdam": Flag(
        "The average of squares is Adam's. It moves by (1 - beta2) * g * g in the direction of g * g, "
        "whatever its own size.",
        "updates the average of squares: take the sign of its difference to g * g",
    ),
    "SquaresOfThisStep": Flag(
        "The gradient is divided by the root of the squares that it has entered (Adam). It is divided by "
        "those before it.",
        "divides the gradient: update the average of squares after that",
    ),
    "StateLost": Flag(
        "Something of the state is not saved, or not loaded: a run that is taken up again goes another way.",
        "saves or loads the state: all of it, the step count too",
    ),
    "StepAhead": Flag(
        "The step count is one ahead: the first step is computed as the second.",
        "counts: the first step is number 1",
    ),
    "StepFromZero": Flag(
        "Steps are counted from 0, so that the first bias correction divides by zero or is left out (ONNX).",
        "counts: the first step is number 1",
    ),
    "StepLags": Flag(
        "The step size that is used is the one of the step before (optax).",
        "uses the step size: the new one",
    ),
    "StepNotRelative": Flag(
        "The step is not multiplied by the size of the parameter, or eps[1] does not bound that size from below.",
        "computes the step size: times the larger of eps[1] and the root mean square of p",
    ),
    "StepShared": Flag(
        "One step count serves all parameters. Each counts the steps in which it had a gradient.",
        "counts: for each parameter the steps in which it had a gradient",
    ),
    "StepSizeUnbounded": Flag(
        "The step size is not kept between the bounds.",
        "changes the step size: keep it between the bounds",
    ),
    "StepStuck": Flag(
        "The step count stands still: every step is computed as the first.",
        "counts: add one in every step",
    ),
    "SubnormalsFlushed": Flag(
        "Subnormal numbers become zero (-ffast-math, -ftz=true). They are kept.",
        "sets the mode of the processor: no flushing to zero",
    ),
    "TiesDown": Flag(
        "Of two numbers of the table as near, a code stands for the smaller one. It stands for the larger one.",
        "codes the averages: let ties go up",
    ),
    "TransposeMissing": Flag(
        "Tall matrices are not transposed before the iteration.",
        "begins the iteration: transpose what has more rows than columns",
    ),
    "UntouchedRowsMoved": Flag(
        "Rows without entries decay in the moments, or move. They stay as they are.",
        "goes through the rows: only through those that have entries",
    ),
    "UpdateUnclipped": Flag(
        "The update is not scaled down where its root mean square is above d.",
        "computes the step size: divide by the root mean square of the update over d, where that is above 1",
    ),
    "DecayByStepSize": Flag(
        "The parameter shrinks by weight_decay times the size of the relative step (transformers). It shrinks by lr * "
        "weight_decay.",
        "applies the decay: it is lr * weight_decay",
    ),
    "MomentumIgnored": Flag(
        "The momentum is accepted and does nothing (bitsandbytes' RMSprop).",
        "should fill a buffer, if there is momentum",
    ),
    "EpsBesideMaximum": Flag(
        "max(beta2 * u + eps, |g|) (Paddle). eps is added to |g|, so that it counts where gradients are zero from the "
        "start on.",
        "takes the maximum: add eps to |g|, not to beta2 * u",
    ),
    "DecayOfMovedParameter": Flag(
        "The buffer of Nesterov's momentum takes the decay of the parameter that the step has just moved (MXNet's NAG, "
        "which writes in place). It takes that of the parameter before the step.",
        "adds the decay to the gradient: before the parameter is written",
    ),
    "VarianceOfGradient": Flag(
        "The average is that of squared gradients (Adam). It is that of squared differences of gradients to "
        "their average.",
        "squares the gradient: subtract its new average first",
    ),
    "TrustIgnored": Flag(
        "The step is not scaled to the size of the parameter. It is, by the norm of the parameter over that of "
        "the direction.",
        "scales the step: by the norm of the parameter over that of its direction",
    ),
    "TrustClipIgnored": Flag(
        "The trust_clip option is accepted and does nothing.",
        "computes the ratio of norms: bound it by 1, if trust_clip is set",
    ),
    "NormOfDecayedGradient": Flag(
        "The decay is added before the norm of the gradient is taken (optax). The norms of the gradient and of "
        "its decay are added.",
        "takes the norm of the gradient: before the decay is added",
    ),
    "DecayOutsideRatio": Flag(
        "The norm is that of the direction without its decay (Keras, whose decay is outside). It is that of the "
        "direction with it.",
        "takes the norm of the direction: after the decay is added",
    ),
    "GradAveragingIgnored": Flag(
        "The grad_averaging option is accepted and does nothing.",
        "lets the gradient into its average: times 1 - beta1, if grad_averaging is set",
    ),
    "FirstNormAveraged": Flag(
        "The average of squared norms begins at zero. It begins at the first of them that is not zero.",
        "averages squared norms: take the norm itself where there is no average yet",
    ),
    "LrNotLowered": Flag(
        "The learning rate is not lowered. It is, where the gradient is larger than the averages of its squares say.",
        "computes the step size: divide lr by the root mean square of the gradient over its averages, where that "
        "is above 1",
    ),
    "RmsOfOldSquares": Flag(
        "The squares of the gradient are divided by their average before this step. They are divided by the one "
        "that they have entered.",
        "takes the root mean square: after the average of squares is renewed",
    ),
    "DecayByFullLr": Flag(
        "The parameter shrinks by lr * weight_decay. It shrinks by the lowered learning rate times weight_decay.",
        "applies the decay: with the learning rate that was lowered",
    ),
    "GradientUnbounded": Flag(
        "The norm of the gradient with reduced variance is not bounded. It is, by 1.",
        "reduces the variance: divide the result by its norm, where that is above 1",
    ),
    "VarianceUnreduced": Flag(
        "The gradient is taken as it is (AdamW). A part of its difference to the gradient before is added.",
        "takes the gradient: add gamma * beta1 / (1 - beta1) times its difference to the one before",
    ),
    "WeightsEqual": Flag(
        "All iterates weigh the same in the average (Keras). They weigh k**r times a power of the largest "
        "learning rate so far.",
        "weighs the iterates: by k**r * lr_max**weight_lr_power, over the sum of the weights",
    ),
    "WarmupIgnored": Flag(
        "The learning rate does not rise at the start. It rises over warmup_steps steps, from lr / warmup_steps on.",
        "computes the learning rate: times k / warmup_steps in the first steps",
    ),
    "SilentPhaseIgnored": Flag(
        "The first steps descend by plain gradients. They stand still until the variance can be rectified.",
        "computes the factor of the learning rate: 0 while rho <= 4, if silent_sgd_phase is set",
    ),
    "SumsInFloat32": Flag(
        "The sum of the weights and the largest learning rate are kept in float32 (pytorch-optimizer). They are "
        "kept in double.",
        "keeps the sum of the weights: in double",
    ),
    "LargestRateForgotten": Flag(
        "An iterate weighs what its own learning rate says. It weighs what the largest so far says, so that late "
        "ones with a small rate count.",
        "weighs the iterates: by the largest learning rate so far",
    ),
    "NewIterateAveraged": Flag(
        "The average takes the iterate after its step. It takes the one before.",
        "averages: before the iterate takes its step",
    ),
    "DecayAtIterate": Flag(
        "The decay is that of the iterate z. It is that of the parameter, where the gradient is taken.",
        "adds the decay: weight_decay times the parameter",
    ),
    "SlowAverageIgnored": Flag(
        "The slow average is kept and does nothing (Adam). alpha times it is added to the fast one.",
        "mixes the averages: add alpha times the slow one to the corrected fast one",
    ),
    "SlowAverageCorrected": Flag(
        "The slow average is corrected for its beginning at zero, as the fast one is. It is not.",
        "corrects the averages: leave the slow one as it is",
    ),
    "GrowthIgnored": Flag(
        "alpha and the last beta have their values from the first step on. They grow for t_alpha_beta3 steps.",
        "computes alpha and the last beta: let them grow for t_alpha_beta3 steps",
    ),
    "BetaGrowsLinearly": Flag(
        "The last beta grows in a straight line from the first one. Its half-life does.",
        "computes the last beta: by the logarithms of both",
    ),
    "L2Single": Flag(
        "l2 is added to the denominator once (the paper, FBGEMM). It is added twice, as in Keras and TensorFlow.",
        "computes the denominator: add 2 * l2",
    ),
    "L1Ignored": Flag(
        "l1 is accepted and does nothing.",
        "computes the parameter: nothing of it is left while the sum is between -l1 and l1",
    ),
    "ShrinkageIgnored": Flag(
        "l2_shrinkage is accepted and does nothing.",
        "adds the gradient to the sum: add 2 * l2_shrinkage * p to it first",
    ),
    "ShrinkageInSquares": Flag(
        "The square of the gradient with its shrinkage enters the accumulator. That of the gradient alone does.",
        "squares the gradient: without what l2_shrinkage adds",
    ),
    "BetaIgnored": Flag(
        "beta is accepted and does nothing. beta / (2 * lr) is added to l2.",
        "computes l2: add beta / (2 * lr)",
    ),
    "EstimateIgnored": Flag(
        "The estimates of the Hessian do nothing. Each enters an average, in its step.",
        "takes estimates: let them enter their average",
    ),
    "EstimateOfStepBefore": Flag(
        "The step divides by the average that the estimate of this step has not entered yet (optax). It has.",
        "divides the average of gradients: update the average of estimates before that",
    ),
    "EstimateInEveryStep": Flag(
        "A step without an estimate lets a zero enter the average of estimates. It leaves that as it is.",
        "updates the average of estimates: only in steps that have one",
    ),
    "StepUnclipped": Flag(
        "The quotient of both averages is not clipped. It is, to clip.",
        "divides the average of gradients: clip the quotient",
    ),
    "AverageRotated": Flag(
        "The average is that of rotated gradients, in bases that change later. It is that of gradients, and is "
        "rotated in every step.",
        "averages the gradient: before it is rotated",
    ),
    "BasesInEachStep": Flag(
        "The bases are renewed in every step. They are, in every precondition_frequency-th step.",
        "renews the bases: after as many steps as precondition_frequency says",
    ),
    "DecayBeforeUpdate": Flag(
        "The parameter shrinks before the step. It shrinks after it, and the step with it.",
        "applies the decay: it stands after the step",
    ),
    "FactorInFloat32": Flag(
        "The orthogonal factors of float64 parameters are computed in float32 (pytorch-optimizer). They are "
        "computed in float64.",
        "computes the orthogonal factor: in the type of the parameter",
    ),
    "ClippedOneByOne": Flag(
        "The gradient of each parameter is clipped by its own norm. One norm is that of all gradients together.",
        "clips the gradients: all by the norm of all",
    ),
    "CoefficientIgnored": Flag(
        "The estimate is not scaled. It is multiplied by d_coef.",
        "computes the estimate: d_coef times the numerator through the denominator",
    ),
    "EstimateStuck": Flag(
        "The estimate stays what it was at first. It grows with what the sums say.",
        "keeps the estimate: the new one, for the next step",
    ),
    "GradientsUnclipped": Flag(
        "The gradients are taken as they are. They are clipped by the norm of all of them, if max_grad_norm is set.",
        "should divide all gradients by their norm through max_grad_norm, where that is above 1",
    ),
    "GrowthUnbounded": Flag(
        "The estimate grows by any factor. A step multiplies it by growth_rate at most.",
        "keeps the estimate: at most growth_rate times the last one",
    ),
    "LrInSum": Flag(
        "The sum s weighs gradients by the learning rate, with safeguard_warmup too. It does not then.",
        "adds the gradient to s: by d / d0 * d, if safeguard_warmup is set",
    ),
    "LrLeftOutOfSum": Flag(
        "The sum s weighs gradients by d in the place of d * lr. It does so with safeguard_warmup alone.",
        "adds the gradient to s: by d / d0 * d * lr",
    ),
    "NewEstimateInStep": Flag(
        "The step is multiplied by the new estimate. It is by the one before; the new one stands at eps alone.",
        "computes the step size: by d as it was before this step",
    ),
    "NumeratorKept": Flag(
        "The numerator of the estimate forgets nothing. It is multiplied by beta3 in each step.",
        "adds to the numerator: to beta3 times what it was",
    ),
    "SliceIgnored": Flag(
        "The sums are over all elements. They are over every slice_p-th one.",
        "sums: over every slice_p-th element of a parameter that is flattened",
    ),
    "SumOfSigned": Flag(
        "The denominator of the estimate sums s with its signs. It sums magnitudes.",
        "sums s: take the magnitude of each number",
    ),
    "NoProxIgnored": Flag(
        "The no_prox option is accepted and does nothing (optimi): the parameter is divided after the step.",
        "should shrink the parameter before the step, if no_prox is set",
    ),
    "NormalizeIgnored": Flag(
        "The normalize_gradient option is accepted and does nothing.",
        "should divide the update by the root of the mean of its squares, if normalize_gradient is set",
    ),
    "CautionIgnored": Flag(
        "The cautious option is accepted and does nothing.",
        "should mask the direction, if cautious is set",
    ),
    "MaskCountsOneMore": Flag(
        "The mask is multiplied by size / (count + 1) (pytorch-optimizer). It is divided by count / size, or by a "
        "thousandth if that is more.",
        "scales the mask: divide it by the share of elements that it leaves",
    ),
    "MaskKept": Flag(
        "The average is kept as the mask leaves it. The mask stands on the direction of a step, and the average "
        "is kept whole.",
        "masks: let it leave the average that is kept alone",
    ),
    "MaskUnscaled": Flag(
        "The mask leaves out what does not agree, and the rest is not scaled up.",
        "masks: let it divide by the share of elements that it leaves",
    ),
    "CorrectionOfStep": Flag(
        "Bias correction multiplies the learning rate, and with it the decay; the norm is that of a direction "
        "that is not corrected (torch-optimizer, and pytorch-optimizer for the average of gradients alone). The "
        "averages are corrected, before the norm is taken.",
        "corrects for bias: divide the averages, and leave the learning rate as it is",
    ),
    "NormBounded": Flag(
        "The norm of the parameter counts as 10 where it is larger (torch-optimizer, and pytorch-optimizer, which adds "
        "eps to the other norm besides). It has no bound.",
        "takes the norm of the parameter: as it is",
    ),
    "EpsInRatio": Flag(
        "eps is added to the norm of the direction, too (pytorch-optimizer). It is added to the root alone.",
        "divides the norms: by that of the direction as it is",
    ),
    "AdaptedWithoutDecay": Flag(
        "The step is scaled without a weight decay too (the paper). It is, if there is a decay or always_adapt is set.",
        "scales the step: if there is a weight decay, or always_adapt",
    ),
    "AdaptedByShape": Flag(
        "Matrices are scaled, whatever their decay, and vectors are neither scaled nor decayed (pytorch-optimizer). "
        "What has a decay is both, whatever its shape.",
        "chooses what is scaled and decayed: by the weight decay and always_adapt, not by the shape",
    ),
    "RatioWithoutEps": Flag(
        "The ratio has no eps, and is 1 only where what it divides by is zero, so that a gradient of zeros is scaled "
        "too (pytorch-optimizer). It has, and is 1 where the norm of the gradient is zero.",
        "computes the ratio: add eps to what it divides by, and take 1 where a norm is zero",
    ),
    "UndecayedAtZero": Flag(
        "Where a norm is zero there is no decay (torch-optimizer). There is, and only the ratio is 1.",
        "adds the decay: whatever the norms are",
    ),
    "ZeroNormAveraged": Flag(
        "The average begins at the first squared norm, be it zero (pytorch-optimizer). It begins at the first that "
        "is not zero.",
        "averages squared norms: take the norm itself where the average is still zero",
    ),
    "FirstMomentWhole": Flag(
        "What enters the momentum first enters whole (pytorch-optimizer). It is weighed like all others, if "
        "grad_averaging is set.",
        "begins the momentum: with 1 - beta1 times the first, if grad_averaging is set",
    ),
    "AveragesCorrected": Flag(
        "The averages are kept corrected for their beginning at zero, by the step count of the parameter or by one for "
        "all (optimi): numbers keep the weights that they were given when betas change, or gradients are missing. They "
        "are corrected where they are used.",
        "averages: by the betas as they are, and divide by 1 - beta**k in the step",
    ),
    "PlainRateOne": Flag(
        "Steps that descend by plain gradients have the learning rate 1 (pytorch-optimizer). They have the one that "
        "is given.",
        "computes the learning rate of the first steps: lr, unless silent_sgd_phase is set",
    ),
    "CoupledDecayLost": Flag(
        "A decay that is not decoupled does nothing: it is added to a gradient that is no longer looked at "
        "(pytorch-optimizer).",
        "adds weight_decay * p to the gradient: before the sums and the averages",
    ),
    "OldEstimateOfGradient": Flag(
        "Without a momentum the gradient is multiplied by the estimate before this step (pytorch-optimizer). It is by "
        "the new one.",
        "computes the step without a momentum: new_d times the gradient",
    ),
    "ZeroStepsCounted": Flag(
        "A step in which all gradients so far are zero counts for the bias correction (pytorch-optimizer). It does "
        "not.",
        "counts: the steps that have a sum to divide by",
    ),
}

OF_SETTINGS = frozenset(
    {"BetaComplemented", "BetasSwapped", "LrScaled", "SettingDiffers", "SettingIgnored", "SettingScaled"}
)
"""Flags of wrong settings: they are about a setting and a value, which no axis holds."""
