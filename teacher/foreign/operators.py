"""The operators of torch that a program from a file may use: those that compute from tensors and numbers alone.

It is a list of what is allowed, so what is not known is refused: operators that read or write files, print, draw random
numbers (labels have to be the same each time), take memory as it comes, or are of another library. A network for images
that needs one more can have it added here, after a look at what it does.
"""

from typing import Any

_NAMES = """
__and__ __or__ __xor__
_adaptive_avg_pool2d _assert_scalar _assert_tensor_metadata _batch_norm_no_update _convolution _log_softmax
_native_batch_norm_legit_no_training _safe_softmax _scaled_dot_product_flash_attention_for_cpu _shape_as_tensor _softmax
_to_copy _unsafe_index _unsafe_view _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_lanczos2d_aa
_upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d
abs absolute adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
adaptive_max_pool3d add addbmm addcdiv addcmul addmm addmv affine_grid_generator alias alias_copy all alpha_dropout amax
amin aminmax any arange argmax argmin argsort as_strided atan2 atan avg_pool1d avg_pool2d avg_pool3d
baddbmm batch_norm bilinear bitwise_and bitwise_not bitwise_or bitwise_xor bmm broadcast_tensors broadcast_to bucketize
cat ceil celu channel_shuffle chunk clamp clamp_max clamp_min clip clone col2im concat concatenate constant_pad_nd
contiguous conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution copy cos cosh
cosine_similarity cross cumprod cumsum
deg2rad detach detach_copy diag diag_embed diagonal diff div divide dot dropout
einsum elu embedding eq equal erf erfc exp exp2 expand expand_as expand_copy expm1 eye
feature_alpha_dropout feature_dropout fill fix flatten flip fliplr flipud floor floor_divide fmod frac full full_like
gather ge gelu glu greater greater_equal grid_sampler grid_sampler_2d group_norm gt
hardshrink hardsigmoid hardswish hardtanh hstack
im2col index index_add index_copy index_fill index_put index_select instance_norm is_nonzero isfinite isinf isnan item
kron
layer_norm le leaky_relu lerp less less_equal lift_fresh lift_fresh_copy linalg_norm linalg_vector_norm linear linspace
log log10 log1p log2 log_sigmoid log_softmax logaddexp logical_and logical_not logical_or logical_xor logit logsumexp lt
masked_fill masked_scatter masked_select matmul max max_pool1d max_pool2d max_pool2d_with_indices max_pool3d maximum
mean meshgrid min minimum mish mm moveaxis movedim mul multiply mv
nan_to_num narrow native_batch_norm native_group_norm native_layer_norm ne neg negative new_full new_ones
new_zeros nonzero norm not_equal numel one_hot ones ones_like outer
pad permute pixel_shuffle pixel_unshuffle positive pow prelu prod
ravel reciprocal reflection_pad1d reflection_pad2d reflection_pad3d relu relu6 remainder repeat repeat_interleave
replication_pad1d replication_pad2d replication_pad3d reshape reshape_as rms_norm roll rot90 round rsqrt rsub
scalar_tensor scaled_dot_product_attention scatter scatter_add scatter_reduce searchsorted select select_copy selu
sigmoid sign silu sin sinh size slice slice_copy slice_scatter softmax softplus softshrink sort split
split_with_sizes split_with_sizes_copy sqrt square squeeze squeeze_copy stack std std_mean sub subtract sum swapaxes
swapdims sym_constrain_range sym_constrain_range_for_size sym_numel sym_size sym_storage_offset sym_stride
t take take_along_dim tan tanh tensor_split tensordot threshold tile to topk transpose transpose_copy tril triu
true_divide trunc type_as
unbind unflatten unfold unfold_copy unsafe_chunk unsafe_split unsafe_split_with_sizes unsqueeze unsqueeze_copy
upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d
upsample_trilinear3d
var var_mean view view_as view_copy vsplit vstack
where
xlogy
zero zeros zeros_like
"""

_SCRIPT_NAMES = """
Bool Float FloatImplicit Int IntImplicit Bool ScalarImplicit __contains__ __derive_index __getitem__ __is__
__isnot__ __not__ __range_length __round_to_zero_floordiv _set_item _unwrap_optional append
copy_ dense_dim dict dim extend floordiv format get insert is_contiguous is_floating_point items keys len list
mathremainder pop reverse setdefault stride tensor update values
"""

_SCRIPT_PRIMITIVES = """
Constant CreateObject DictConstruct GetAttr If ListConstruct ListUnpack Loop NumToTensor RaiseException TupleConstruct
TupleIndex TupleUnpack Uninitialized abs ceil device dtype is_cuda isinstance layout max min requires_grad shape
unchecked_cast
"""

_ALLOWED = frozenset(_NAMES.split())
_IN_SCRIPTS = frozenset(_SCRIPT_NAMES.split())
_PRIMITIVES = frozenset(_SCRIPT_PRIMITIVES.split())

TRAINING_ARGUMENTS = ("train", "training", "use_input_stats")
"""Of operators that behave otherwise in training, as batch norm and dropout."""


def is_allowed(name: str) -> bool:
    """Whether a program may use an operator of ATen; with a _ at its end it is the one that works in place."""
    in_place = name.endswith("_") and not name.endswith("__")
    return (name.removesuffix("_") if in_place else name) in _ALLOWED


def is_allowed_in_script(kind: str) -> bool:
    """Whether a TorchScript graph may have a node of a kind, such as "aten::conv2d" or "prim::If"."""
    namespace, _, name = kind.partition("::")
    if namespace == "prim":
        return name in _PRIMITIVES
    return namespace == "aten" and (is_allowed(name) or name in _IN_SCRIPTS)


def trains(arguments: dict[str, Any]) -> bool:
    """Whether the arguments of an operator say that it is in training."""
    return any(arguments.get(name) is True for name in TRAINING_ARGUMENTS)
