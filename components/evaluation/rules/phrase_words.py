"""Words that the rules for yes and no, lists and short statements read, in six languages."""

from __future__ import annotations

import re

YES = r"yes|yeah|indeed|effectivement|en effet|efectivamente|de fato|yep|correct|that's correct|true|ja|jawohl|richtig|stimmt|wahr|oui|vrai|si|sí|claro que sí|verdadero|cierto|sim|verdadeiro|是的?|对的?|有的?|正确|没错|会的?|可以|能"
NO = r"no|nope|false|incorrect|nein|falsch|non|faux|falso|não|nao|falso|否|不是的?|不对|没有|不|错误?|不会|不可以|不能|无"
NEGATION = re.compile(
    r"(?<!\w)(?:no|not|never|none|neither|nor|without|cannot|\w+n't|nicht|kein\w*|nie|niemals|weder|ohne|ne|n'|pas|aucune?|jamais|sans|ni|nunca|"
    r"ningun[oa]?|ningún|sin|não|nenhuma?|nem|sem|jamais)(?!\w)|[不没无非未]"
)
# Openings that hold "no" and strengthen what follows; and what holds a negation in a question that asks no other way round for it.
INTENSIFIED = re.compile(
    r"\W*(?:no doubt|no question|no wonder|not only|no problem|without (?:a )?doubt|no cabe|no hay (?:ninguna )?duda|no s[oó]lo|no solamente|"
    r"não há dúvida|não (?:só|apenas|somente)|sem dúvida|non seulement|nul doute|sans (?:aucun )?doute|kein(?:e)? (?:zweifel|frage)|nicht nur|ohne zweifel|"
    r"不仅|不但|毫无疑问|没错|不错|无疑|不可否认)"
)
NO_NEGATION = re.compile(r"\b(?:or not|oder nicht|ou pas|ou non|o no|ou não)\b|(\w)[不没]\1|有没有|是否|[,，]\s*no\s*\?")
HEDGE = re.compile(
    r"\b(?:not sure|unsure|uncertain|cannot (?:tell|determine|say|see)|can't (?:tell|determine|say|see)|unclear|unable to (?:tell|determine|see)|"
    r"hard to (?:tell|say)|might|maybe|perhaps|possibly|probably|either|depends|nicht sicher|unklar|vielleicht|möglicherweise|nicht erkennen|"
    r"pas sûr|peut-être|impossible de|difficile|incertain|no estoy segur\w|quizás?|tal vez|no se puede|no puedo|não tenho certeza|talvez|não é possível|"
    r"não consigo|could be|kann ich nicht|je ne peux pas|je ne sais pas|no sé|não sei|don't know|weiß (?:ich )?nicht|keine ahnung)|不确定|可能|也许|无法|不清楚|不知道|看不"
)
COLORS = {
    "red": "red rot rote roter rotes roten rouge rouges rojo roja rojos rojas vermelho vermelha vermelhos vermelhas 红 红色",
    "blue": "blue blau blaue blauer blaues blauen bleu bleue bleus bleues azul azules azuis 蓝 蓝色",
    "green": "green grün grüne grüner grünes grünen vert verte verts vertes verde verdes 绿 绿色",
    "yellow": "yellow gelb gelbe gelber gelbes gelben jaune jaunes amarillo amarilla amarillos amarillas amarelo amarela amarelos amarelas 黄 黄色",
    "black": "black schwarz schwarze schwarzer schwarzes schwarzen noir noire noirs noires negro negra negros negras preto preta pretos pretas 黑 黑色",
    "white": "white weiß weiße weißer weißes weißen blanc blanche blancs blanches blanco blanca blancos blancas branco branca brancos brancas 白 白色",
    "brown": "brown braun braune brauner braunes braunen marron brun brune marrón castanho castanha 棕色 褐色 棕",
    "gray": "gray grey grau graue grauer graues grauen gris grise grises cinza cinzento 灰 灰色",
    "orange": "orange naranja laranja 橙 橙色 橘色",
    "purple": "purple violet lila violett violette morado morada púrpura roxo roxa 紫 紫色",
    "pink": "pink rosa rose rosado rosada 粉 粉色 粉红色",
}
SIDES = {
    "left": "left links linke linken gauche izquierda esquerda 左 左边 左侧",
    "right": "right rechts rechte rechten droite derecha direita 右 右边 右侧",
    "top": "top above upper oben haut dessus arriba cima superior 上 上面 上方",
    "bottom": "bottom below lower unten bas dessous abajo baixo inferior 下 下面 下方",
}
# Words that an answer may add without changing what it says.
SMALL = frozenset(
    (
        "a an the is are was were be it its this that these those there here he she they i you we in on at of to and with for from by has have does "
        "do image picture photo color colour shown shows visible appears seen see can person people photograph scene says say reads read written "
        "displayed der die das ein eine einen einem einer ist sind war es im in auf dem den des von zu und mit am zum zur sich bild foto farbe hat "
        "man zu sehen zeigt steht lautet sagt le la les l un une des du de d est sont c ce cette ces il elle ils elles dans sur à au aux et avec a y "
        "image photo couleur on voit dit indique el los las lo una unos unas del es son está están en y con se hay ve ese esta este imagen color "
        "tiene dice pone o os as um uma uns umas do da dos das no na nos nas é são em e com ao à esse essa este imagem foto cor tem vê diz "
    ).split()
)
QUESTIONING = frozenset(("what which who where when why how any gibt est-ce que qu qué cuál há existe existem 吗 什么 ").split())
