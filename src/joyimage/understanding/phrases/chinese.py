"""Chinese phrases that ask for a move, a rotation or a camera move."""

from __future__ import annotations

import re
from functools import cache

from joyimage.edits import Move, Rotate
from joyimage.understanding.phrases.turns import Turn, step, view_from

_POLITE = re.compile(
    r"^(?:请问|请你|请|麻烦你?|能不能|可不可以|可以|能|帮我|帮忙|给我|我想要?|我要|想要?|我希望|希望|现在|然后|再|并且|并|接着|同时|把它)?"
)
_POLITE_END = re.compile(r"(?:吧|吗|呢|好吗|可以吗|行吗|谢谢|呀|啊)+$")
_SMALL = re.compile(r"(?:稍微|略微|轻微地?|微微|稍稍|稍|略)|(?:一点点?|一些|点儿?|些|一下)")
_DEGREES = re.compile(r"(\d{1,3}(?:\.\d+)?)\s*(?:度|°)")
_CAMERA = r"(?:镜头|相机|摄像机|摄影机|机位|视角|视点|画面|拍摄角度|角度|观察角度|视野)"
_SCENE = r"(?:它|这个|这|物体|画面|场景|整个场景|这个场景|主体|[\u4e00-\u9fff]{1,6}?)"
_DIRECTION = (
    r"(?:(?P<left>左|左手)|(?P<right>右|右手)|(?P<above>正?上|高|顶|头顶|空中|高处|鸟瞰|俯视|俯瞰|俯拍|天上|更高)"
    r"|(?P<below>正?下|低|底|低处|仰视|仰拍|地面|更低)|(?P<behind>正?后|背|背后|身后|后面|反|对|另一))"
)
_END = r"(?:侧面|边儿?|面|侧|方|部|处|方向|角度|视角|的?地方|头)?"
_LOOK = r"(?:看过去|看过来|看去|看下去|看下来|看上去|看|拍摄|拍|观察|观看|展示|显示|呈现|俯瞰|俯视|俯拍|仰视|仰拍|望过去|望去|望)"

_CAMERA_CLAUSES: tuple[tuple[str, str], ...] = (
    (
        rf"(?:(?:把|将|让)?{_CAMERA})?(?:再)?(?P<in>拉近|推近|靠近|"
        rf"移近|放近|凑近|近|往前推|向前推|前推|推进|往前移|向前移动?|往前|向前|推上去|"
        rf"推过去|放大)(?:{_SCENE})?(?:看)?(?P<end>)",
        "zoom",
    ),
    (
        rf"(?:(?:把|将|让)?{_CAMERA})?(?:再)?(?P<out>拉远|离远|走远|"
        rf"推远|移远|远离|放远|退远|远|往后拉|向后拉|后拉|往后退|向后退|后退|拉开|往后移|"
        rf"向后移动?|缩小)(?:{_SCENE})?(?:看)?",
        "zoom",
    ),
    (
        rf"(?:从|在)?(?:更)?(?P<in>近处|近距离|更近的?(?:地方|位置|距离))(?:来|去)?{_LOOK}(?:{_SCENE})?",
        "zoom",
    ),
    (
        rf"(?:从|在)?(?:更)?(?P<out>远处|远距离|更远的?(?:地方|位置|距离))(?:来|去)?{_LOOK}(?:{_SCENE})?",
        "zoom",
    ),
    (r"(?:来|给|拍|用|换成|改成|变成|切换到)?(?:一?个|一张)?(?P<in>特写|近景)(?:镜头)?", "zoom"),
    (r"(?:来|给|拍|用|换成|改成|变成|切换到)?(?:一?个|一张)?(?P<out>远景|全景|广角)(?:镜头)?", "zoom"),
    (
        rf"(?:(?:把|将|让)?{_CAMERA})(?:围绕|绕着?)?(?:物体|它|主体|"
        rf"场景)?(?:向|往|朝|移到|转到|移动到|转向)?(?:(?P<step_left>左)"
        rf"|(?P<step_right>右)|(?P<step_up>上)|(?P<step_down>下)"
        rf")(?:边|侧|方)?(?:移动?|转动?|旋转|平移|环绕|摇|绕|挪|偏|抬|升|降)?",
        "step",
    ),
    (rf"(?:(?:把|将|让)?{_CAMERA})?(?P<step_left>顺时针)(?:旋转|转动?|环绕|绕)(?=.*)", "camera step"),
    (rf"(?:(?:把|将|让)?{_CAMERA})?(?P<step_right>逆时针)(?:旋转|转动?|环绕|绕)(?=.*)", "camera step"),
    (rf"(?:(?:把|将|让)?{_CAMERA})(?P<step_up>抬高|升高|升起|上升|调高|拉高|抬起|抬|高)", "step"),
    (rf"(?:(?:把|将|让)?{_CAMERA})(?P<step_down>降低|放低|下降|调低|压低|降|低)", "step"),
    (r"(?P<step_up>抬高|升高|调高)(?:镜头|相机|摄像机|机位|视角)", "step"),
    (r"(?P<step_down>降低|放低|压低|调低)(?:镜头|相机|摄像机|机位|视角)", "step"),
    (
        rf"(?:换成?|改成?|变成|切换?[成到]|转成?|用)?(?:从)?(?:{_SCENE}的)?{_DIRECTION}{_END}(?:的)?(?:角度|"
        rf"视角|方向)?(?:来|去|往下|往上|向下|向上|那边)?{_LOOK}(?:{_SCENE})?(?:的?(?:样子|"
        rf"画面|视角|角度|效果))?",
        "from",
    ),
    (rf"{_LOOK}(?:{_SCENE})?从{_DIRECTION}{_END}(?:的)?(?:样子|角度|视角)?", "from"),
    (rf"(?:让我(?:们)?)?(?:看看|看一看|看)?(?:从)?{_DIRECTION}{_END}(?:的)?(?:视角|角度|视图|机位)", "from"),
    (
        rf"(?:(?:把|将|让)?{_CAMERA})?(?:换[成到]?|改成?|变成|切换?[成到]|"
        rf"转到|转成|移到|移动到|绕到|调到|调成|调整[到成]|改为|变为|设为|用|以|转向|"
        rf"放到|放在)(?:了)?(?:一?个)?(?:{_SCENE}的)?(?:从)?{_DIRECTION}{_END}(?:去|"
        rf"来)?(?:的)?(?:视角|角度|机位|镜头|视图|位置|拍摄|看|拍)?",
        "camera or view",
    ),
    (
        rf"(?:从)(?:{_SCENE}的)?{_DIRECTION}{_END}(?:的角度|的视角|"
        rf"的方向)?(?:来)?(?:(?:看|拍|展示|显示|呈现|渲染|重新渲染)(?:{_SCENE})?)?",
        "from",
    ),
    (
        rf"(?:换个|换一个|用另一个)(?:角度|视角|方向)(?:，)?从{_DIRECTION}{_END}(?:来|去)?{_LOOK}?(?:{_SCENE})?",
        "from",
    ),
    (r"(?:换到|切到|换成|改成)(?P<behind>背面|后面|背后)(?:的)?(?:视角|角度|视图)?", "from"),
    (
        rf"(?:{_SCENE}|[^从，。]{{1,10}})从{_DIRECTION}{_END}{_LOOK}(?:起来)?(?:会?是)?(?:什么|怎么|啥)样(?:子|的)?",
        "from",
    ),
    (rf"(?P<above>俯视|俯瞰|俯拍|鸟瞰)(?:一下)?{_SCENE}", "from"),
    (rf"(?P<below>仰视|仰拍)(?:一下)?{_SCENE}", "from"),
    (r"(?P<above>鸟瞰图?|俯视图?|俯拍|俯瞰|航拍|顶视图)(?:视角|角度|镜头)?", "from"),
    (r"(?P<below>仰视图?|仰拍|低角度)(?:视角|角度|镜头)?", "from"),
    (
        r"(?:绕到|转到|走到|去)(?:它|物体|场景|主体)?(?:的)?(?P<behind>背后|"
        r"后面|背面|身后|另一边|另一侧|对面)(?:去|来)?(?:看|拍)?(?:看)?",
        "from",
    ),
)

_HEAD = r"(?:(?P<given>(?:把|将|让|使|叫)(?P<object>(?:[这那]把)?[^的把将让]{1,12}?(?:的[^的]{1,6}?)?)))"
_TO = r"(?:到|向|成|朝向?|往|至|为|对着|对|面向|面朝|朝着|过来|过去|过来面向|过来面对|一下|身|头|个身|动到|动|个|来)*"
_VIEW = (
    r"(?:(?P<front_left>左前|前左)|(?P<front_right>右前|前右)"
    r"|(?P<rear_left>左后|后左)|(?P<rear_right>右后|后右)|(?P<left>左)"
    r"|(?P<right>右)"
    r"|(?P<front>正面|正前|正|前|我们?|镜头|观众|相机|摄像机|这边|观者|屏幕)|(?P<rear>背对?|背后|后|反|背向|背朝|另一))"
)
_VIEW_END = r"(?:视图|面视图|侧面视图|面对?着?(?:我们?|镜头|观众)?|边|侧面|侧|方向?|对?着?(?:我们?|镜头|观众)|朝着?(?:我们?|镜头|观众)|头)?"
_ROTATE_CLAUSES = (
    # First, as the back would become part of the name: "the chair's back faces me".
    rf"{_HEAD}(?:转个?身|转过去|转)?(?P<rear>背(?:面|后|部)?[对向朝]着?(?:我们?|镜头|观众|相机|摄像机|这边|屏幕))",
    rf"{_HEAD}头(?:转向|朝向?|转到){_VIEW}{_VIEW_END}",
    rf"{_HEAD}(?:旋转|转动|转|翻转|调转|掉转|扭转|扭|面向|面朝|面对|朝向?|"
    rf"朝着|对着|正对|车头朝|车头转向|头朝|看向|望向|看着|调整[到成])(?:{_TO}){_VIEW}{_VIEW_END}(?:去|"
    rf"来|看)?",
    rf"{_HEAD}(?:旋转|转动|转|调转)?(?P<rear>转个方向背对(?:着)?(?:我们?|"
    rf"镜头)|掉头|调头|掉个头|调个头|转个身|转身|转过身去?|转过去|转个?180(?:度|"
    rf"°)|旋转180(?:度|°)|调个方向|反过来|背对(?:着)?(?:我们?|镜头|观众)"
    rf"|背过去|背过身去?)",
    rf"{_HEAD}(?P<front>转过来|转向我们?|正对(?:着)?(?:我们?|镜头|观众)|面对(?:着)?(?:我们?|镜头|观众)|面向(?:我们?|镜头|观众))",
    rf"(?:旋转|转动|转一下|转)(?P<object>[^的到成]{{1,12}}?)(?:到|成|以?显示|以?展示|，?让我们?看到)(?:它的|其)?{_VIEW}{_VIEW_END}",
    r"(?:让我(?:们)?(?:能)?看[到见看]|让我(?:们)?看|看看?|显示|展示|露出)"
    r"(?:一下)?(?P<object>[^的]{1,12}?)的?(?:(?P<front>正面|"
    r"前面)|(?P<rear>背面|后面|背后|反面|背部)|(?P<left>左侧面?|左面|"
    r"左边)|(?P<right>右侧面?|右面|右边))",
    rf"{_HEAD}(?:旋转|转动|转)(?:一下|过去|过来)?(?:，)?(?:让我们?|"
    rf"使我们?|以便|好让我们?)?(?:能)?(?:看到|看见|露出|显示|展示)(?:它的|"
    rf"其|它)?{_VIEW}{_VIEW_END}",
)
_PUT = r"(?:移动|移|挪动|挪|搬|拖动|拖|放置|放|摆放|摆|推|拿|移放|平移|安置|靠)"
_PLACE = (
    r"(?:[^，。]{0,16}?(?:边上|旁边|左边|右边|上边|下边|前边|后边|左侧|"
    r"右侧|左下|右下|左上|右上|上面|下面|前面|后面|里面|上方|下方|左方|右方|中间|"
    r"中央|中心|角落|角|旁|上|下|里|中|左|右|前|后|边|侧|外面|之间|门口|近处|"
    r"远处|前方|后方|这里|那里|前景|背景)(?:里|中|去|来|处|一点|一些)?)"
)
_MOVE_CLAUSES = (
    rf"(?:把|将)(?P<object>[^一把将换改变加成]{{1,12}}?)(?:往|向|"
    rf"朝)(?P<where>(?:左|右|上|下|前|后)(?:边|面|侧|方)?)(?:边)?{_PUT}(?:动)?",
    rf"(?:把|将)(?P<object>[^一把将换改变加成]{{1,12}}?){_PUT}(?:到|在|至|去|进|往|向)+(?P<where>{_PLACE})",
    rf"(?:把|将)(?P<object>[^一把将换改变加成]{{1,12}}?)(?P<where>){_PUT}(?:一{_PUT}|动|开|走|过去|过来|一下|远|近|进去|动)",
    rf"(?P<object>[^一到在至把将了]{{1,6}}?){_PUT}(?:到|在|至)(?P<where>{_PLACE})",
    rf"{_PUT}(?P<object>[^一到在至把将了]{{1,8}}?)(?:到|至)(?P<where>{_PLACE})",
)
_NO_OBJECT = re.compile(
    r"(?:背景|颜色|文字|字|标题|天空|镜头|相机|视角|画面|光线|灯光|光源|时间|季节|场景|风格|头发|表情|照片|图片|图像|图|头|脸|手|眼睛|视线|目光|亮度|对比度)$"
)
_NO_PLACE = re.compile(
    r"(?:海边|沙滩|城市|森林|雪地|太空|月球|水下|海底|风格|街上|草原|沙漠|山上|夜晚|星空|雨中|雪中|阳光下|灯光下|一[个只张座片条]|巴黎|北京|长城)"
)
_NAMES = {
    "车": "car", "汽车": "car", "小汽车": "car", "轿车": "car", "这辆车": "car", "那辆车": "car", "卡车": "truck", "公交车": "bus", "自行车": "bicycle",
    "摩托车": "motorcycle", "椅子": "chair", "桌子": "table", "沙发": "sofa", "杯子": "cup", "瓶子": "bottle", "花瓶": "vase", "台灯": "lamp", "灯": "lamp",
    "书": "book", "猫": "cat", "小猫": "cat", "狗": "dog", "小狗": "dog", "马": "horse", "鸟": "bird", "船": "boat", "小船": "boat", "飞机": "plane", "人": "person", "人物": "person",
    "男人": "man", "女人": "woman", "孩子": "child", "小孩": "child", "男孩": "boy", "女孩": "girl", "苹果": "apple", "球": "ball", "盒子": "box", "箱子": "box",
    "帽子": "hat", "鞋子": "shoe", "包": "bag", "电脑": "computer", "手机": "phone", "树": "tree", "房子": "house", "物体": "object", "它": "object", "雕像": "statue",
    "植物": "plant", "花": "flower", "相框": "picture frame", "钟": "clock", "吉他": "guitar", "机器人": "robot", "玩具": "toy", "心形": "heart", "爱心": "heart",
    "红车": "red car", "红色的车": "red car", "红色汽车": "red car", "蓝色的椅子": "blue chair", "蓝色椅子": "blue chair", "咖啡杯": "coffee cup", "茶壶": "teapot",
}  # fmt: skip
"""Names in English, which the templates are in; any other name stays as it is."""


def turns_of(clause: str) -> list[Turn] | None:
    """Return the camera move that a clause asks for, or None."""
    found = _DEGREES.search(clause)
    degrees = None if found is None else float(found[1])
    text = clause if found is None else clause[: found.start()] + clause[found.end() :]
    text, count = _SMALL.subn("", text)
    for pattern, kind in _compiled()[0]:
        match = pattern.fullmatch(text)
        if match is not None:
            return _turns(match, kind, text, degrees, is_small=count > 0)
    return None


def rotation_of(clause: str) -> Rotate | None:
    """Return the rotation that a clause asks for, or None."""
    for pattern in _compiled()[1]:
        match = pattern.fullmatch(clause) or pattern.fullmatch(_SMALL.sub("", clause))
        if match is None:
            continue
        name = match["object"]
        view = next(key for key, value in match.groupdict().items() if value and key in _VIEW_KEYS)
        if _NO_OBJECT.search(name):
            return None
        return Rotate(object=_name(name), view=view.replace("_", " "))
    return None


def move_of(clause: str) -> Move | None:
    """Return the move that a clause asks for, without its box, or None."""
    for pattern in _compiled()[2]:
        match = pattern.fullmatch(clause) or pattern.fullmatch(_SMALL.sub("", clause))
        if match is None:
            continue
        if _NO_OBJECT.search(match["object"]) or _NO_PLACE.search(match["where"] or ""):
            return None
        return Move(object=_name(match["object"]))
    return None


def tidy(text: str) -> str:
    """Return a sentence without what is polite and without blanks."""
    text = "".join(text.split()).strip("。.!！?？;；，,")
    before = None
    while before != text:
        before, text = text, _POLITE_END.sub("", _POLITE.sub("", text)).strip("，,。")
    return text


def clauses_of(text: str) -> list[str]:
    """Split a sentence where one request ends and the next begins."""
    parts = re.split(r"[，,；;、]|然后|接着|并且|(?<=.)并(?=[把将从拉推放])|同时", text)
    return [part for part in map(tidy, parts) if part]


def _turns(
    match: re.Match[str], kind: str, text: str, degrees: float | None, *, is_small: bool
) -> list[Turn] | None:
    found = {name for name, value in match.groupdict().items() if value}
    if kind == "zoom":
        # "Make it larger" without a camera is about an object.
        word = next(name for name in ("in", "out") if name in found)
        if match[word] in {"放大", "缩小"} and not re.search(_CAMERA, text):
            return None
        return [Turn(zoom=word)]
    if "step" in kind:
        direction = next(name for name in found if name.startswith("step_")).removeprefix("step_")
        if kind == "camera step" and not re.search(_CAMERA, text):
            return None
        return [step(direction, degrees=degrees, is_small=is_small)]
    direction = next(name for name in ("left", "right", "above", "below", "behind") if name in found)
    if kind == "camera or view" and not re.search(rf"{_CAMERA}|视|俯|仰|鸟瞰|看|拍|绕", text):
        return None
    return [view_from(direction, degrees=degrees, is_small=is_small)]


def _name(given: str) -> str:
    name = (
        re.sub(
            r"^(?:[这那](?:个|辆|把|只|张|本|条|台|件|匹|艘|架|盏|杯|瓶)?|[\u4e00-\u9fff]{1,4}[上里中]的)",
            "",
            given,
        )
        or given
    )
    return _NAMES.get(given) or _NAMES.get(name) or name


_VIEW_KEYS = ("front_left", "front_right", "rear_left", "rear_right", "left", "right", "front", "rear")


@cache
def _compiled() -> tuple[list[tuple[re.Pattern[str], str]], list[re.Pattern[str]], list[re.Pattern[str]]]:
    """Compile the patterns of camera moves, rotations and moves, when the first text is read: it takes a while."""
    return (
        [(re.compile(pattern), kind) for pattern, kind in _CAMERA_CLAUSES],
        [re.compile(pattern) for pattern in _ROTATE_CLAUSES],
        [re.compile(pattern) for pattern in _MOVE_CLAUSES],
    )
