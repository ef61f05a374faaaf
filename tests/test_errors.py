from isnet_jax.errors import UserError, suggest


def test_suggests_the_nearest_name():
    known = ["vgg11", "resnet18", "densenet121"]
    assert suggest("resnet81", known, what="model") == (
        "unknown model 'resnet81'; did you mean 'resnet18'? Known: densenet121, resnet18, vgg11."
    )
    assert "did you mean 'resnet18'" in suggest("ResNet-18", known)


def test_suggests_nothing_when_nothing_is_near():
    assert suggest("qqq", ["b", "a"]) == "unknown name 'qqq'. Known: a, b."


def test_user_errors_are_value_errors():
    assert issubclass(UserError, ValueError)
